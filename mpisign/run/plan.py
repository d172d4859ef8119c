"""A job resolved against zoo, problems and exchanges, before MPI starts: everything a typing error can break."""

import inspect
from dataclasses import dataclass, replace
from typing import Any

from mpisign import config as configuration
from mpisign import paths, problems
from mpisign.algorithms import dense
from mpisign.algorithms import zoo as _entries  # noqa: F401  its functions enter the registry
from mpisign.algorithms.formats import RAW, Format
from mpisign.algorithms.method import Method
from mpisign.algorithms.registry import Entry, check_weights, entries, find
from mpisign.algorithms.theory import Setting
from mpisign.config import Adversary, Config
from mpisign.errors import UsageError, choices
from mpisign.exchange import Choice, choose
from mpisign.problems import OFFERS, Problem
from mpisign.run import nodes


@dataclass(frozen=True)
class Plan:
    """What will run: config with every default, the algorithm, the problem and the exchange."""

    config: Config
    entry: Entry
    algorithm: Method
    problem: Problem
    choices: tuple[Choice, ...]  # one a stage of the algorithm
    preset: str | None = None  # what run.preset chose, and by which theorem
    before: int = 0  # voters of the run so far, where these were others


def resolve(config: Config, voters: int, each: int = 1) -> Plan:
    """The plan of a job for so many voters, of `each` ranks.

    Raises UsageError for unknown names and keys, values out of range, and parts that do not fit together.
    """
    if config.run.voters not in (0, voters):
        there = f"{voters} rank(s)" if each == 1 else f"{voters} voter(s) of {each} ranks"
        raise UsageError(
            f"run.voters = {config.run.voters}, but there are {there}; start as many, "
            "or simulate them in one process: mpisign simulate"
        )
    config = _with_batches(config, voters * each)
    entry = find(config.algorithm.name)
    algorithm, hyperparameters = _algorithm(config, entry, voters)
    factory = problems.find(config.problem.name)
    arguments = configuration.bind(factory, config.problem, "problem")
    for key in {"path", "test_path"} & arguments.keys():
        if isinstance(arguments[key], str):
            arguments[key] = paths.shell_path(arguments[key], f"problem.{key}")
    try:
        problem = factory(**arguments)
    except OSError as error:
        raise UsageError(f"problem {config.problem.name!r}: {error}") from error
    if isinstance(problem, Problem):
        problem.use_precision(config.run.precision)
        if config.run.compile:
            problem.compile()
    _check_needs(entry, algorithm, problem, config)
    _check_adversary(entry, algorithm, config.adversary, voters)
    nodes.check(config, algorithm, entry.name, each)
    if (weights := config.algorithm.weights) is not None:
        check_weights("algorithm.weights", weights, algorithm, voters)
    arguments["sampling"] = _sampling(entry, algorithm, config.problem.sampling)
    chosen = _choices(config, algorithm, voters)
    if config.run.preset == "theory" and entry.theory is None:
        known = choices(e.name for e in entries() if e.theory)
        raise UsageError(f"there is no preset theory for {entry.name}; there is one for: {known}")
    full = config.updated(
        run={"voters": voters},
        exchange={"node_size": each if config.exchange.voter == "node" else config.exchange.node_size},
        problem=arguments,
        algorithm=hyperparameters | algorithm.rules,
        schedule={"lr": config.schedule.lr or entry.lr},
    )
    file = configuration.run_path(full, voters)  # a name that can't be is told before any data are read
    if config.checkpoint.ranks_changed and file != configuration.run_path(full, voters + 1):
        raise UsageError(
            f"checkpoint.ranks_changed = true, but run.file = {config.run.file!r} names the number of ranks: with "
            "another one the run would not be found; leave {n} out, as in run.file=runs/mine.h5"
        )
    return Plan(full, entry, algorithm, problem, chosen)


def _with_batches(config: Config, ranks: int) -> Config:
    """The job with each rank's part of the global batch, if it states one.

    Raises UsageError for sizes of another number of ranks, and for a whole that can't be dealt to them.
    """
    whole, sizes = config.problem.global_batch_size, config.problem.batch_sizes
    key = f"problem.global_batch_size = {whole}"
    if sizes == "speed":
        if whole < ranks:
            raise UsageError(f'problem.batch_sizes = "speed": {key} is to be dealt to {ranks} ranks; set it higher')
        return config
    if sizes:
        if len(sizes) != ranks:
            whose = "voter(s)" if config.exchange.voter == "rank" else "rank(s)"
            text = f"problem.batch_sizes = {sizes} has {len(sizes)} value(s), but there are {ranks} {whose}"
            raise UsageError(
                f"{text}; give one each, measure them anew by problem.batch_sizes=speed, or set problem.batch_sizes=[] "
                "for one batch_size of all"
            )
        if whole and whole != sum(sizes):
            raise UsageError(f"{key}, but problem.batch_sizes = {sizes} add up to {sum(sizes)}; give one of them")
        return config
    if whole % ranks:
        raise UsageError(
            f"{key} can't be dealt evenly to {ranks} ranks; take a multiple of {ranks}, or give each rank its own by "
            "problem.batch_sizes"
        )
    return config.updated(problem={"batch_size": whole // ranks} if whole else {})


def _choices(config: Config, algorithm: Method, voters: int) -> tuple[Choice, ...]:
    """The exchange of each stage; where ranks may outlive one another it stays as the rule chose it."""
    chosen = choose(config.exchange.name, algorithm, voters)
    survives = config.run.lost_ranks != "stop"
    return tuple(replace(choice, open=False) for choice in chosen) if survives else chosen


def with_weights(plan: Plan, weights: tuple[int, ...]) -> Plan:
    """The plan with so many votes for each voter, and the exchange that carries such a vote best."""
    algorithm = plan.algorithm.with_weights(weights)
    return replace(plan, algorithm=algorithm, choices=_choices(plan.config, algorithm, len(weights)))


def with_theory(plan: Plan, steps: int, voters: int, d: int, batches: int) -> Plan:
    """The plan with rate and hyperparameters by the paper's own formulas, for that many steps and coordinates.

    batches: in a pass over a voter's rows. Raises UsageError for a constant of [theory] that the formulas need and the
    job does not state.
    """
    config, name = plan.config, plan.entry.name
    option = getattr(config.algorithm, "option", 1)
    setting = Setting(steps, voters, d, batches, config.theory.model_dump(exclude_none=True), name, option)
    values = plan.entry.theory(setting)
    chose = ", ".join(f"{'schedule' if k == 'lr' else 'algorithm'}.{k} = {v:.6g}" for k, v in values.items())
    preset = f"theory: {chose}; {inspect.getdoc(plan.entry.theory)}"
    rate = {"lr": values.pop("lr"), "kind": "constant", "warmup": 0}
    config = config.updated(algorithm=values, schedule=rate)
    algorithm, hyperparameters = _algorithm(config, plan.entry, voters)
    config = config.updated(algorithm=hyperparameters | algorithm.rules)
    chosen = _choices(config, algorithm, voters)
    return replace(plan, config=config, algorithm=algorithm, choices=chosen, preset=preset)


def _algorithm(config: Config, entry: Entry, voters: int) -> tuple[Method, dict[str, Any]]:
    hyperparameters = configuration.bind(entry.make, config.algorithm, "algorithm")
    built = entry.build(**hyperparameters).with_rules(config.algorithm.zeros, config.algorithm.ties, voters)
    factor = config.dense.lr / (config.schedule.lr or entry.lr) if config.dense.lr else 1.0
    if config.dense.parameters and not all(stage.sign.up() == RAW for stage in built.stages):
        built = dense.with_averaging(built, factor)
    if config.dense.steps:
        built = dense.warm_start(built, config.dense.steps, factor)
    return built, hyperparameters


def _check_needs(entry: Entry, algorithm: Method, problem: Problem, config: Config) -> None:
    name = config.problem.name
    if not isinstance(problem, Problem):
        raise UsageError(f"problem {name!r} made a {type(problem).__name__}, not an mpisign.problems.Problem")
    offers = problem.offers | OFFERS
    if missing := algorithm.needs - offers:
        fitting = [e.name for e in entries() if e.build().needs <= offers]
        able = [k for k, p in problems.PROBLEMS.items() if algorithm.needs <= getattr(p, "offers", OFFERS) | OFFERS]
        raise UsageError(
            f"algorithm {entry.name} needs {choices(missing)}, which problem {name!r} does not offer (it offers: "
            f"{choices(problem.offers) or 'nothing'}); problems that fit: {choices(able) or 'none of mpisign'}; "
            f"algorithms that fit: {choices(fitting)}"
        )
    wanting = {"run.exact_gradient": config.run.exact_gradient, "probe.every": config.probe.every}
    for key, wanted in wanting.items():
        if wanted and not problem.offers & {"finite sum", "exact gradient"}:
            raise UsageError(
                f"{key}: problem {name!r} has no rows whose full gradient could be taken, nor one by a formula; "
                "leave it out"
            )


def _check_adversary(entry: Entry, algorithm: Method, lies: Adversary, voters: int) -> None:
    """Refuses lies that nobody would notice, and more liars than there can be."""
    if not lies.voters:
        return
    if lies.voters > voters:
        raise UsageError(f"adversary.voters = {lies.voters}, but there are {voters} voters")
    if lies.kind == "colluding" and lies.voters == voters:
        raise UsageError(f'adversary.kind = "colluding" looks at honest messages, but all {voters} voters lie')
    formats = [stage.sign.up() for stage in algorithm.stages]
    if not any(form.bits for form in formats):
        raise UsageError(
            f"adversary.voters = {lies.voters}: the voters of {entry.name} agree on their estimates and send no "
            "messages that could be changed; leave it out"
        )
    numbers = any(map(_tells_numbers, formats))
    if lies.kind == "scale" and lies.factor == 1:
        raise UsageError('adversary.kind = "scale" with adversary.factor = 1 changes nothing; set another factor')
    if not numbers and (lies.kind == "scale" or lies.factor != 1):
        fitting = [e.name for e in entries() if any(_tells_numbers(s.sign.up()) for s in e.build().stages)]
        raise UsageError(
            f'adversary.kind = "{lies.kind}", factor = {lies.factor:g}: {entry.name} sends signs without scales, so '
            f"nothing is multiplied; leave the factor out and take another kind, or one of: {choices(fitting)}"
        )


def _tells_numbers(form: Format) -> bool:
    """Whether a factor changes what messages say."""
    return form.scaled or not form.signs


def _sampling(entry: Entry, algorithm: Method, wanted: str) -> str:
    """How batches are drawn: as the method says, or as is wished where it says nothing."""
    if wanted == "auto" or algorithm.sampling in ("", wanted):
        return algorithm.sampling or (wanted if wanted != "auto" else "reshuffle")
    fitting = choices(e.name for e in entries() if e.build().sampling == wanted)
    raise UsageError(
        f"problem.sampling = {wanted!r}: {entry.name} is about batches by {algorithm.sampling!r}; leave it out, or "
        f"take a method for {wanted!r} ({fitting}), or one for either"
    )
