-- Schema of a weightspace catalog. Every table and column carries its comment into the database (`weightspace sql --tables`).
-- Surrogate keys are integers; hashes are 32-byte blobs that stand once. There are no indexes: DuckDB's zone maps and
-- hash joins answer faster than its ART indexes load, and insert-only tables survive a crash.

create table meta (                      -- facts about the catalog itself
    key VARCHAR,                         -- schema_version, created_with, zoo_id (which zoo it is, through copies and backups)
    value VARCHAR                        -- its value
);

create table architectures (             -- one network: tensor names and shapes, whatever was trained into them
    architecture_id INTEGER,             -- surrogate key
    fingerprint BLOB,                    -- BLAKE3 of the sorted names and shapes
    num_tensors INTEGER,                 -- tensors, tied ones under each name
    family VARCHAR,                      -- what config.json calls it, when it says
    spec VARCHAR                         -- its symmetry specification, when one was chosen
);

create table models (                    -- one content: the same weights under the same names, wherever they lie
    model_id INTEGER,                    -- surrogate key
    id BLOB,                             -- content identity, BLAKE3 over all tensors
    weights_id BLOB,                     -- the same without the tensor names: equal after a mere renaming
    name VARCHAR,                        -- unique name, from the first file's path
    architecture_id INTEGER,             -- architectures
    kind VARCHAR,                        -- full, adapter, signature or trainer (optimizer state alone)
    num_params BIGINT,                   -- float elements, tied tensors once, running statistics included
    num_bytes BIGINT,                    -- bytes of all tensors, tied ones once
    num_tensors INTEGER,                 -- tensors, tied ones under each name
    is_finite BOOLEAN,                   -- no NaN and no infinity anywhere; NULL where only headers were read
    licence VARCHAR,                     -- of the model card, or of a licence file beside it
    base_model VARCHAR,                  -- declared by card or adapter configuration
    datasets VARCHAR[],                  -- declared by the card
    languages VARCHAR[],                 -- declared by the card
    library VARCHAR,                     -- declared by the card
    task VARCHAR,                        -- pipeline tag of the card
    recipe_id INTEGER,                   -- recipes, for models the platform made
    catalogued TIMESTAMP                 -- when it came in (UTC)
);

create table files (                     -- where a model lies: one row a checkpoint file or folder
    file_id INTEGER,                     -- surrogate key
    model_id INTEGER,                    -- models
    path VARCHAR,                        -- absolute path, or relative to the zoo's folder when inside it
    format VARCHAR,                      -- safetensors, torch, onnx, ...
    num_files INTEGER,                   -- files that its bytes come from
    size BIGINT,                         -- bytes of those files
    modified TIMESTAMP,                  -- latest modification time of those files (UTC)
    stamp UBIGINT,                       -- fingerprint of their names, sizes and times: unchanged means no need to read again
    sidecar_stamp UBIGINT,               -- the same of the files beside it that its metadata came from
    sha256 BLOB,                         -- the Hub's name for it, when known
    run_id INTEGER,                      -- runs, when it is a checkpoint of one
    step BIGINT,                         -- step (or epoch) within the run
    metadata JSON,                       -- what the container, config.json, adapter_config.json, trainer state and card say
    ingested TIMESTAMP                   -- when it was last read (UTC)
);

create table runs (                      -- one training
    run_id INTEGER,                      -- surrogate key
    key VARCHAR,                         -- where it comes from: a folder or a tracker's own id; unique
    name VARCHAR,                        -- its name
    source VARCHAR,                      -- folder, mlflow, wandb, trackio, csv, jsonl, population
    seed BIGINT,                         -- random seed, when known
    hyperparameters JSON,                -- flat object
    recipe_id INTEGER,                   -- recipes, for populations trained here
    source_item VARCHAR,                 -- the datum a network was fitted to (an image of an implicit network)
    split VARCHAR,                       -- train, val or test, for zoos that metanets learn from
    status VARCHAR,                      -- as the tracker says: finished, failed, running
    started TIMESTAMP,                   -- UTC
    ended TIMESTAMP,                     -- UTC
    tags JSON                            -- as the tracker says
);

create table tensors (                   -- one row a distinct content, with statistics over its finite elements
    tensor_id BIGINT,                    -- surrogate key
    hash BLOB,                           -- BLAKE3 of dtype, shape and little-endian bytes
    dtype VARCHAR,                       -- F32, BF16, F8_E4M3, I64, Q4_K, ...
    shape BIGINT[],                      -- logical shape
    numel BIGINT,                        -- elements
    nbytes BIGINT,                       -- bytes
    num_zero BIGINT,                     -- elements equal to zero
    num_nan BIGINT,                      -- elements that are NaN
    num_inf BIGINT,                      -- elements that are infinite
    minimum DOUBLE,                      -- smallest element
    maximum DOUBLE,                      -- largest element
    mean DOUBLE,                         -- arithmetic mean
    std DOUBLE,                          -- standard deviation (population)
    l1 DOUBLE,                           -- sum of absolute values
    l2 DOUBLE,                           -- square root of the sum of squares
    skewness FLOAT,                      -- third standardised moment
    kurtosis FLOAT                       -- fourth standardised moment; 3 for a normal distribution
);

create table model_tensors (             -- occurrences: which tensor stands where in which model
    model_id INTEGER,                    -- models
    position INTEGER,                    -- order in the file
    name VARCHAR,                        -- the tensor's name, verbatim
    tensor_id BIGINT,                    -- tensors
    alias_of VARCHAR                     -- first name of the same storage, for tied tensors
);

create table metrics (                   -- numbers recorded about a model or along a run
    model_id INTEGER,                    -- models; NULL for points of a run without a checkpoint
    run_id INTEGER,                      -- runs, when it comes from one
    name VARCHAR,                        -- accuracy, loss, ...
    split VARCHAR,                       -- train, val, test, ...
    step BIGINT,                         -- step, when it belongs to one
    value DOUBLE,                        -- finite
    source VARCHAR,                      -- the file or tracker it was read from, or 'user'
    time TIMESTAMP,                      -- when it was logged (UTC), when the tracker says so
    recorded TIMESTAMP                   -- when it came in (UTC)
);

create table tags (                      -- free labels of models
    model_id INTEGER,                    -- models
    key VARCHAR,                         -- label
    value VARCHAR                        -- its value; empty for a bare label
);

create table edges (                     -- who comes from whom
    parent_id INTEGER,                   -- models
    child_id INTEGER,                    -- models
    kind VARCHAR,                        -- merge, finetune, adapter, export, ...
    evidence VARCHAR,                    -- recipe, card, shared tensors, low rank, ...
    confidence DOUBLE                    -- 1 when declared, else a probability
);

create table measurements (              -- results of measures, keyed by content so that nothing is computed twice
    model_id INTEGER,                    -- models, for measures of a whole model
    tensor_id BIGINT,                    -- tensors, for measures of one tensor
    measure VARCHAR,                     -- name of the measure
    version VARCHAR,                     -- its version: a new one is computed anew
    parameters VARCHAR,                  -- canonical JSON of its parameters
    key VARCHAR,                         -- which of its results
    value DOUBLE,                        -- a number
    text VARCHAR                         -- a result that is not a number
);

create table pair_measurements (         -- results about two models
    a_id INTEGER,                        -- models
    b_id INTEGER,                        -- models
    measure VARCHAR,                     -- name of the measure
    version VARCHAR,                     -- its version
    parameters VARCHAR,                  -- canonical JSON of its parameters
    key VARCHAR,                         -- which of its results
    value DOUBLE                         -- a number
);

create table embeddings (                -- vectors that metanets give to models
    model_id INTEGER,                    -- models
    metanet VARCHAR,                     -- name or id of the metanet
    version VARCHAR,                     -- its version
    vector FLOAT[]                       -- the embedding
);

create table recipes (                   -- how a model was made by the platform
    recipe_id INTEGER,                   -- surrogate key
    hash BLOB,                           -- BLAKE3 of the canonical JSON
    kind VARCHAR,                        -- population, merge, generate, stitch, ...
    recipe JSON                          -- everything needed to make it again
);

create table claims (                    -- published claims that were tried here: a row a finding
    claim VARCHAR,                       -- its name
    statement VARCHAR,                   -- what is claimed
    source VARCHAR,                      -- paper, arXiv id, and where in it
    topic VARCHAR,                       -- symmetry, matching, merging, ...
    verdict VARCHAR,                     -- held, held in part, did not hold
    position INTEGER,                    -- order among the findings of the claim
    quantity VARCHAR,                    -- what was measured
    value DOUBLE,                        -- its mean over the seeds
    interval DOUBLE,                     -- half of the 95 % interval of that (Student's t)
    baseline DOUBLE,                     -- the same of the null or the baseline
    baseline_interval DOUBLE,            -- half of its interval
    against VARCHAR,                     -- what the baseline is
    bar VARCHAR,                         -- what was asked, fixed beforehand
    held BOOLEAN,                        -- whether it was reached
    seeds INTEGER,                       -- seeds that it was tried with
    seconds DOUBLE,                      -- that the claim took
    version VARCHAR,                     -- of the package
    tried TIMESTAMP                      -- when (UTC)
);

create table quarantine (                -- what was refused, and why; nothing in it was executed
    path VARCHAR,                        -- file or folder
    reason VARCHAR,                      -- truncated, corrupt, hostile, needs-code, unsupported, missing, unreadable, unknown, crashed
    detail VARCHAR,                      -- what was expected and what was found
    advice VARCHAR,                      -- what to do about it
    size BIGINT,                         -- bytes
    stamp UBIGINT,                       -- fingerprint of name, size and time: unchanged means no need to try again
    seen TIMESTAMP                       -- when it was refused (UTC)
);

create view ancestors as                 -- every model that another descends from, with the number of generations between them
    with recursive up(child_id, ancestor_id, generations) as (
        select child_id, parent_id, 1 from edges
        union
        select up.child_id, edges.parent_id, up.generations + 1 from up join edges on edges.child_id = up.ancestor_id
            where up.generations < 64
    )
    select child_id as model_id, ancestor_id, min(generations) as generations from up group by all;

create view descendants as               -- every model that descends from another
    select ancestor_id as model_id, model_id as descendant_id, generations from ancestors;

create view duplicate_models as          -- contents that lie in more than one place (the zoo's own store apart), with the bytes that the further copies cost
    select model_id, any_value(models.name) as name, count(*) as copies, (sum(files.size) - max(files.size))::bigint as wasted_bytes, list(path order by file_id) as paths
    from files join models using (model_id) where not starts_with(path, '.weightspace/store/') group by model_id having count(*) > 1;

create view shared_tensors as            -- tensors that stand in more than one model, with the bytes that storing them once would save
    select tensor_id, any_value(dtype) as dtype, any_value(shape) as shape, any_value(nbytes) as nbytes,
           count(distinct model_id) as models, (count(distinct model_id) - 1) * any_value(nbytes) as wasted_bytes
    from model_tensors join tensors using (tensor_id) group by tensor_id having count(distinct model_id) > 1;

create view tensor_table as              -- one row an occurrence: model, tensor name and statistics together
    select models.name as model, model_tensors.position, model_tensors.name as tensor, model_tensors.alias_of, tensors.* exclude (hash)
    from model_tensors join tensors using (tensor_id) join models using (model_id);
