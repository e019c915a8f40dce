"""Questions that people ask of a zoo: each is SQL, with a sentence and a plot made from its answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from weightspace.zoo.report import charts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from weightspace.zoo.zoo import Zoo

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What to ask, and how to tell the answer.

    Attributes:
        text: the question in a user's words.
        sql: what is asked of the catalog; its column names are read by people.
        state: one sentence from the rows of the answer.
        points: what the plot needs, when that is more than the answer.
        draw: puts these points on axes.
    """

    text: str
    sql: str
    state: Callable[[Sequence[Row]], str]
    points: str
    draw: "Callable[[Axes, Sequence[Row]], None]"


@dataclass(frozen=True)
class Answer:
    """A question with what the catalog says.

    Attributes:
        question: what was asked.
        table: the rows that the SQL gave.
        sentence: what they say.
        svg: the plot; None where there is nothing to show.
    """

    question: Question
    table: pa.Table
    sentence: str
    svg: str | None


def ask(zoo: "Zoo", question: Question) -> Answer:
    """Put one question to the catalog."""
    table = zoo.sql(question.sql)
    if not table.num_rows:
        return Answer(question, table, "Nothing in this zoo answers it.", None)
    points = zoo.sql(question.points).to_pylist()
    svg = charts.svg(lambda axes: question.draw(axes, points)) if points else None
    return Answer(question, table, question.state(table.to_pylist()), svg)


_TRAINED = """\
select run, num_params, 100 * value as accuracy,
       hyperparameters->>'architecture' as architecture,
       (hyperparameters->>'width')::int as width,
       (hyperparameters->>'learning_rate')::double as rate
from model_table as m join runs on runs.name = run
     join metrics using (model_id)
where metrics.name = 'accuracy' and metrics.split = 'test'
  and rate is not null
qualify m.step = max(m.step) over (partition by run)"""

_BEST = f"""\
with trained as (
{_TRAINED}
)
select budget as "parameters at most",
       round(max(accuracy), 1) as "test accuracy %",
       arg_max(run, accuracy) as network,
       arg_max(num_params, accuracy) as parameters,
       count(*) as candidates
from (values (700), (1500), (2500), (5000), (10000)) b(budget)
join trained on num_params <= budget
group by budget order by budget"""


def _state_best(rows: Sequence[Row]) -> str:
    least, most = rows[0], rows[-1]
    reached = f"{least['parameters']:,} parameters already reach {least['test accuracy %']:.1f} %; "
    if most["parameters"] == least["parameters"]:
        return reached + "no larger network does better."
    gained = most["test accuracy %"] - least["test accuracy %"]
    return reached + f"{most['parameters'] / least['parameters']:.1f} times as many buy {gained:.1f} points more."


def _draw_best(axes: "Axes", points: Sequence[Row]) -> None:
    for kind, colour, marker in (("mlp", charts.BLUE, "o"), ("cnn", charts.ORANGE, "D")):
        own = [row for row in points if row["architecture"] == kind]
        axes.plot(
            [row["num_params"] for row in own], [100 - row["accuracy"] for row in own], marker, color=colour, alpha=0.75, label=kind.upper()
        )
    steps: list[tuple[float, float]] = []
    for row in sorted(points, key=lambda row: (row["num_params"], -row["accuracy"])):
        if not steps or 100 - row["accuracy"] < steps[-1][1]:
            steps.append((row["num_params"], 100 - row["accuracy"]))
    steps.append((max(row["num_params"] for row in points), steps[-1][1]))
    axes.step([at for at, _ in steps], [error for _, error in steps], where="post", color=charts.INK, lw=1.2, label="best so far")
    charts.log_axis(axes, "x", [500, 1000, 2000, 5000, 10000])
    charts.log_axis(axes, "y", [2, 5, 10, 20, 50, 90])
    axes.set(xlabel="parameters", ylabel="test error (%)")
    axes.legend()


_RATES = f"""\
with trained as (
{_TRAINED}
), cells as (
select architecture, width, rate, avg(accuracy) as mean,
       min(accuracy) as worst, count(*) as runs
from trained group by all
)
select upper(architecture) as architecture, width,
       arg_max(rate, mean) as "best learning rate",
       round(max(mean), 1) as "mean test accuracy %",
       round(arg_max(worst, mean), 1) as "worst run %",
       round(arg_min(mean, rate), 1) as "at the lowest rate %",
       round(arg_max(mean, rate), 1) as "at the highest %",
       sum(runs)::int as runs
from cells group by all order by architecture desc, width"""

_RATE_POINTS = f"""\
with trained as (
{_TRAINED}
)
select architecture, width, rate, avg(accuracy) as mean, min(accuracy) as low, max(accuracy) as high
from trained group by all order by architecture desc, width, rate"""


def _state_rates(rows: Sequence[Row]) -> str:
    best = [row["best learning rate"] for row in rows]
    drop = max(rows, key=lambda row: row["mean test accuracy %"] - row["at the highest %"])
    where = f"{min(best):g} at every width" if min(best) == max(best) else f"between {min(best):g} and {max(best):g}"
    return (
        f"The best learning rate lies {where}; too high a rate costs up to "
        f"{drop['mean test accuracy %'] - drop['at the highest %']:.0f} points ({drop['architecture']} of width {drop['width']})."
    )


def _draw_rates(axes: "Axes", points: Sequence[Row]) -> None:
    series = list(dict.fromkeys((row["architecture"], row["width"]) for row in points))
    for (kind, width), colour in zip(series, charts.ramp(len(series)), strict=True):
        own = [row for row in points if (row["architecture"], row["width"]) == (kind, width)]
        rates = [row["rate"] for row in own]
        line = "-o" if kind == "mlp" else "--D"
        axes.plot(rates, [row["mean"] for row in own], line, color=colour, ms=4, label=f"{kind.upper()} {width}")
        if any(row["low"] < row["high"] for row in own):
            axes.fill_between(rates, [row["low"] for row in own], [row["high"] for row in own], color=colour, alpha=0.10, lw=0)
    charts.log_axis(axes, "x", sorted({row["rate"] for row in points}))
    axes.set(xlabel="learning rate (SGD, momentum 0.9)", ylabel="test accuracy (%)", ylim=(0, 100))
    axes.legend(title="width", ncols=2)


_TWICE = """\
with shared as (
select dtype || ' ' || shape::varchar as what, nbytes, models,
       wasted_bytes,
       (select min(model || ' : ' || tensor) from tensor_table
        where tensor_table.tensor_id = shared_tensors.tensor_id) as name
from shared_tensors
), twice as (
select 'whole model' as what, name, copies as times,
       wasted_bytes / (copies - 1) as each, wasted_bytes
from duplicate_models
union all
select 'tensor ' || what, name, models, nbytes, wasted_bytes
from shared
)
select what, name as example, times,
       round(each / 1e3, 1) as "kB each",
       round(wasted_bytes / 1e3, 1) as "kB too many"
from twice order by wasted_bytes desc, name limit 10"""

_TWICE_POINTS = """\
with held as (select distinct model, tensor_id, nbytes from tensor_table where nbytes >= 1024),
     sizes as (select model, sum(nbytes) as size from held group by model)
select a.model as a, b.model as b, 100 * sum(a.nbytes) / any_value(sizes.size) as share
from held as a join held as b using (tensor_id) join sizes on sizes.model = a.model
where a.model in (select x.model from held as x join held as y using (tensor_id) where x.model <> y.model
                  group by x.model order by sum(x.nbytes) desc, x.model limit 12)
  and b.model in (select x.model from held as x join held as y using (tensor_id) where x.model <> y.model
                  group by x.model order by sum(x.nbytes) desc, x.model limit 12)
group by all order by a, b"""


def _state_twice(rows: Sequence[Row]) -> str:
    saved, first = "kB too many", rows[0]
    return (
        f"Storing once what is listed here would save {sum(row[saved] for row in rows) / 1e3:,.1f} MB; "
        f"the largest is a {first['what']} held {first['times']} times."
    )


def _draw_twice(axes: "Axes", points: Sequence[Row]) -> None:
    names = sorted({row["a"] for row in points})
    at = {name: number for number, name in enumerate(names)}
    share = [[0.0] * len(names) for _ in names]
    for row in points:
        share[at[row["a"]]][at[row["b"]]] = row["share"]
    axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=130, edgecolors="white", linewidth=1)
    for y, line in enumerate(share):
        for x, value in enumerate(line):
            if value >= 0.5:
                axes.text(
                    x + 0.5, y + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if value > 80 else charts.INK
                )
    axes.invert_yaxis()
    middles = [number + 0.5 for number in range(len(names))]
    axes.set_xticks(middles, [str(number) for number in range(1, len(names) + 1)])
    axes.set_yticks(middles, [f"{charts.short(name, 36)}  {number}" for number, name in enumerate(names, 1)], fontsize=8)
    axes.tick_params(length=0)
    axes.set(xlabel="share of the model's bytes that model number … holds too (%)")
    axes.grid(False)


_WEIGHTS = "len(shape) >= 2 and numel >= 64\n  and num_nan + num_inf = 0"

_ODD = f"""\
select min(model) as model, arg_min(tensor, model) as tensor,
       any_value(shape)::varchar as shape,
       round(any_value(kurtosis)::double, 1) as kurtosis,
       round(any_value(100 * num_zero / numel), 1) as "zeros %",
       round(any_value(greatest(maximum - mean, mean - minimum)
             / nullif(std, 0)), 1) as "farthest element (std)",
       count(distinct model) as models
from tensor_table
where {_WEIGHTS}
  and (kurtosis > 20 or num_zero > numel / 4 or std = 0)
group by tensor_id
order by any_value(kurtosis) desc nulls first, 1 limit 10"""

_ODD_POINTS = f"""\
select min(model) as model, arg_min(tensor, model) as tensor, any_value(numel) as numel, any_value(kurtosis) as kurtosis,
       bool_or(run is not null) as trained
from tensor_table join (select name as model, run from model_table) using (model)
where {_WEIGHTS} and kurtosis is not null group by tensor_id order by kurtosis desc"""


def _state_odd(rows: Sequence[Row]) -> str:
    constant = sum(row["kurtosis"] is None for row in rows)
    said = [f"{constant} weight tensor{' is' if constant == 1 else 's are'} constant."] if constant else []
    far = next((row for row in rows if row["kurtosis"] is not None), None)
    if far is not None:
        said.append(
            f"{far['tensor']} of {far['model']} has a kurtosis of {far['kurtosis']:,.0f} (a normal distribution has 3): "
            f"one element stands {far['farthest element (std)']:.0f} standard deviations out."
        )
    return " ".join(said)


def _draw_odd(axes: "Axes", points: Sequence[Row]) -> None:
    for trained, colour, marker, label in (
        (True, charts.SKY, "o", "trained here"),
        (False, charts.VERMILION, "^", "from packages and paths"),
    ):
        own = [row for row in points if row["trained"] is trained]
        axes.plot([row["numel"] for row in own], [row["kurtosis"] for row in own], marker, color=colour, ms=4, alpha=0.7, label=label)
    charts.log_axis(axes, "x", [100, 1000, 10_000, 100_000])
    charts.log_axis(axes, "y", [3, 10, 100, 1000, 10_000])
    axes.set(xlabel="elements of the tensor", ylabel="kurtosis")
    axes.axhline(3, color=charts.INK, lw=1, ls=":", label="normal distribution")
    for row in points[:3]:
        label = charts.short(f"{row['model']} : {row['tensor']}", 44)
        axes.annotate(label, (row["numel"], row["kurtosis"]), xytext=(-6, -2), textcoords="offset points", fontsize=7, ha="right")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


_GROWN = """\
with norms as (
select model as name, sqrt(sum(l2 * l2)) as norm
from tensor_table where alias_of is null group by model
), taken as (
select run, m.step, 100 * value as accuracy,
       (hyperparameters->>'learning_rate')::double as rate,
       norm / first_value(norm) over (partition by run order by m.step)
           as growth
from model_table as m join norms on norms.name = m.name
     join runs on runs.name = run join metrics using (model_id)
where metrics.name = 'accuracy' and metrics.split = 'test'
  and rate is not null
)"""

_GROWTH = f"""\
{_GROWN}, finished as (
select * from taken qualify step = max(step) over (partition by run)
)
select rate as "learning rate", count(*) as runs,
       round(avg(growth), 2) as "norm at the end / at the start",
       round(avg(accuracy), 1) as "mean test accuracy %",
       round(corr(growth, accuracy), 2)
           as "correlation of growth and accuracy"
from finished group by rate order by rate"""

_GROWTH_POINTS = f"""\
{_GROWN}
select rate, step, avg(growth) as growth, min(growth) as low, max(growth) as high, avg(accuracy) as accuracy
from taken group by rate, step order by rate, step"""


def _state_growth(rows: Sequence[Row]) -> str:
    grown, accuracy = "norm at the end / at the start", "mean test accuracy %"
    best = max(rows, key=lambda row: row[accuracy])
    last = rows[-1]
    return (
        f"Accuracy is best where weights end {best[grown]:.1f} times as long as they began (learning rate {best['learning rate']:g}); "
        f"at rate {last['learning rate']:g} they grow {last[grown]:.1f} times and {last[accuracy]:.0f} % is left."
    )


def _draw_growth(axes: "Axes", points: Sequence[Row]) -> None:
    rates = sorted({row["rate"] for row in points})
    for rate, colour in zip(rates, charts.ramp(len(rates)), strict=True):
        own = [row for row in points if row["rate"] == rate]
        axes.plot([row["step"] for row in own], [row["growth"] for row in own], "-o", color=colour, ms=4)
        end = f"rate {rate:g}: {own[-1]['accuracy']:.0f} % right"
        axes.annotate(end, (own[-1]["step"], own[-1]["growth"]), xytext=(7, -3), textcoords="offset points", fontsize=8)
        axes.fill_between(
            [row["step"] for row in own], [row["low"] for row in own], [row["high"] for row in own], color=colour, alpha=0.08, lw=0
        )
    charts.log_axis(axes, "y", [1, 2, 5, 10, 20, 50])
    axes.set(xlabel="training step", ylabel="norm of all weights / norm at step 0")
    axes.set_xlim(right=1.35 * max(row["step"] for row in points))


QUESTIONS = (
    Question("Which network is best for its size?", _BEST, _state_best, _TRAINED, _draw_best),
    Question("Which learning rate works best at each width?", _RATES, _state_rates, _RATE_POINTS, _draw_rates),
    Question("What do we hold more than once, and what does it cost?", _TWICE, _state_twice, _TWICE_POINTS, _draw_twice),
    Question("Which weights look odd?", _ODD, _state_odd, _ODD_POINTS, _draw_odd),
    Question("How do weights grow along training, and does growth pay?", _GROWTH, _state_growth, _GROWTH_POINTS, _draw_growth),
)
