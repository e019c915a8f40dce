def test_probe(run):
    for a in (["ls"],["ls","--quarantined"],["show","checkpoints/hostile"],["show","checkpoints/tower"],["diff","base","tuned"],["duplicates"],["ls","--runs"],["import","log.csv"],["ls","--runs"],["show","base"],["ls","--files"],["show","checkpoints/unsound"]):
        r = run(*a)
        print("$", a); print(r.stdout); print(r.stderr)
    assert 0
