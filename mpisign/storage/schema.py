"""The run file, declared once: writer.py writes it, reader.py reads it, `mpisign show` prints it.

    /            attributes: filetype, format_version, mpisign_version, algorithm, definition, paper, problem,
                 exchange, exchange_reason, exchange_details, n, d, seed, data (fingerprint of the rows of a problem
                 with a path)
    /config      text: the job as TOML, every default written out
    /layout      name, shape, offset, size of each parameter
    /partition   rows (n,), class_counts (n, classes): what each rank owns
                 Of a run that went on with another number of ranks, n, exchange, data and these tell the latest; what
                 is counted as a mean over ranks is then the sum of the means over the ranks that there were.
                 Where exchange.voter is "node", n counts voters, and of what /partition and /phases tell of ranks there
                 are exchange.node_size for each; means over ranks, as of bytes, are then means over voters.
    /steps /phases /eval /probes /trace /events /segments: tables that grow, one dataset a column (below)

A table's columns are appended together; where a kill cut one short, the reader takes the shortest. The last of them,
crc32, is the checksum of the row's values in the columns that its attribute `columns` names; arrays that are written
once have theirs as an attribute. The reader checks what it finds against what is declared here: see
validation.py.
"""

from dataclasses import dataclass

FILETYPE = "mpisign-run"
FORMAT_VERSION = 1
SIMULATED = "none (simulated)"  # in place of an MPI library

PHASES = {  # of a step, by the seconds that each rank spends in them
    "estimate": "the problem's gradients and the estimator, since the row before",
    "sign": "packing",
    "exchange": "headers, waiting, counting, deciding",
    "update": "moving x",
    "evaluate": "full losses and held-out accuracy",
    "record": "gathering and writing rows",
}

# the bins of probes/snr: |g_i|/sigma_i below the first edge, between two, and above the last
SNR_EDGES = tuple(10 ** (k / 2) for k in range(-8, 5))
CRITICAL_SNR = 2 / 3**0.5  # above it a sign is right with a probability that grows fast [Bernstein et al. 2019 thm. 1]


@dataclass(frozen=True)
class Column:
    """One column: numpy dtype ("S..." is fixed-length text), its unit, what it means."""

    name: str
    dtype: str
    unit: str
    meaning: str
    each: str = ""  # what a row of it has a value for, "coordinate" (of x), "voter" or "bin" (of SNR); one value if ""


TABLES: dict[str, tuple[Column, ...]] = {
    "steps": (
        Column("step", "i8", "", "steps taken so far, counted from 1"),
        Column("epoch", "f8", "passes", "rows of minibatches so far over all rows; passes for snapshots not counted"),
        Column("loss", "f8", "", "mean over ranks of the minibatch loss before the step"),
        Column("learning_rate", "f8", "", "of this step"),
        Column("agreement", "f8", "", "mean over coordinates of |sum of signs| / n; NaN where no signs are sent"),
        Column("ties", "i8", "coordinates", "votes that were tied"),
        Column("zeros", "i8", "coordinates", "estimates that were exactly zero, summed over ranks"),
        Column("clips", "i8", "coordinates", "estimates outside a stochastic sign's radius, summed over ranks"),
        Column("clipped", "i8", "gradients", "gradients shortened by algorithm.clip so far, summed over ranks"),
        Column("flips", "i8", "coordinates", "signs of the direction that differ from the recorded row before"),
        Column(
            "bytes_up",
            "i8",
            "bytes",
            "sent towards votes so far: headers, scales, shared radii and snapshots included, mean over ranks",
        ),
        Column("bytes_down", "i8", "bytes", "sent back from votes so far, mean over ranks"),
        Column(
            "bytes_other", "i8", "bytes", "sent for records and checks so far, mean over ranks; checkpoints not counted"
        ),
        Column(
            "method_bytes_up",
            "f8",
            "bytes",
            "the method's own cost so far, whatever carries it: messages, scales, shared radii and snapshots by "
            "definition, (n-1)/n of each as in sharded, mean over ranks; NaN in a run that an older mpisign began",
        ),
        Column("method_bytes_down", "f8", "bytes", "likewise of verdicts and of what is shared, back to the ranks"),
        Column("gradient_evaluations", "i8", "rows", "gradients of single rows so far, summed over ranks"),
        Column("function_evaluations", "i8", "rows", "function values of single rows so far, summed over ranks"),
        Column("seconds", "f8", "s", "wall time since the first step began, evaluation included"),
    ),
    "phases": (
        Column("step", "i8", "", "as in steps"),
        Column("rank", "i8", "", ""),
        *(Column(name, "f8", "s", meaning) for name, meaning in PHASES.items()),
        Column("memory", "i8", "bytes", "most so far: allocated by torch on a GPU, resident memory on a CPU"),
    ),
    "eval": (
        Column("step", "i8", "", "as in steps; 0 is the starting point"),
        Column("epoch", "f8", "passes", "as in steps"),
        Column("train_loss", "f8", "", "the objective over all rows: mean over ranks, or over rows (run.objective)"),
        Column("test_loss", "f8", "", "mean over held-out rows; NaN without"),
        Column("test_accuracy", "f8", "", "fraction of held-out rows; NaN without"),
        Column("gradient_l1", "f8", "", "l1 norm of the objective's exact gradient; NaN unless run.exact_gradient"),
        Column("gradient_l2", "f8", "", "its Euclidean norm"),
        Column("bytes_up", "i8", "bytes", "as in steps"),
        Column("bytes_down", "i8", "bytes", "as in steps"),
        Column("bytes_other", "i8", "bytes", "as in steps"),
        Column("method_bytes_up", "f8", "bytes", "as in steps"),
        Column("method_bytes_down", "f8", "bytes", "as in steps"),
        Column("gradient_evaluations", "i8", "rows", "as in steps"),
        Column("function_evaluations", "i8", "rows", "as in steps; those for this record are not counted"),
        Column("seconds", "f8", "s", "as in steps"),
    ),
    "probes": (
        Column("step", "i8", "", "as in steps: of that step's messages; gradients are at the point before it"),
        Column("epoch", "f8", "passes", "as in steps"),
        Column("gradient_l1", "f8", "", "l1 norm of the exact gradient g, over all rows of all voters"),
        Column("gradient_l2", "f8", "", "its Euclidean norm"),
        Column("gradient_density", "f8", "", "phi(g) = |g|_1^2 / (d |g|_2^2): 1 if dense, 1/d if sparse"),
        Column("gradient_zeros", "i8", "coordinates", "where g is exactly 0: left out of the successes"),
        Column("rho_norm", "f8", "", "sum of (2 rho_i - 1)|g_i|, as <signs, g>: mean over voters of what was sent"),
        Column("rho_norm_vote", "f8", "", "the same of what was decided: an unbiased draw of the rho_M norm"),
        Column("success", "f8", "", "share of coordinates whose sent sign is that of g, mean over voters"),
        Column("success_vote", "f8", "", "share of coordinates whose decided sign is that of g"),
        Column("noise_l1", "f8", "", "|sigma|_1, sigma_i^2 the variance of a minibatch gradient, mean over voters"),
        Column("noise_density", "f8", "", "phi(sigma)"),
        Column("smoothness_l1", "f8", "", "|L|_1, L_i = |change of g_i| / h along the step's signs, h its size"),
        Column("smoothness_density", "f8", "", "phi(L) over the coordinates that moved"),
        Column("dissimilarity", "f8", "", "sqrt(mean over voters of |g_j - g|_2^2) / |g|_2"),
        Column("critical", "f8", "", "share of coordinates with |g_i|/sigma_i above 2/sqrt(3)"),
        Column("snr", "i8", "coordinates", "histogram of |g_i|/sigma_i by schema.SNR_EDGES", "bin"),
        Column("voter_success", "f8", "", "share of coordinates whose sign is that of g, a voter, or NaN", "voter"),
        Column("voter_agreement", "f8", "", "share of decided coordinates where it sent what was decided", "voter"),
    ),
    "trace": (
        Column("step", "i8", "", "as in eval; filled only where run.trace is set"),
        Column("x", "f4", "", "the parameters as they lie in x, without pads", each="coordinate"),
    ),
    "events": (
        Column("step", "i8", "", "steps taken when it happened"),
        Column("time", "f8", "s", "seconds since 1970"),
        Column(
            "kind",
            "S16",
            "",
            "start, checkpoint, memory (no checkpoint could be kept there), resume, lost (hosts or a voter), ranks "
            "(another number), stop, error, complete; a run is complete if its last event is",
        ),
        Column("text", "S400", "", ""),
    ),
    "segments": (
        Column("step", "i8", "", "first step of this stretch of the run"),
        Column("n", "i8", "ranks", ""),
        Column("hosts", "S400", "", "host names with ranks on each"),
        Column("device", "S64", "", ""),
        Column("threads", "i8", "", "torch threads a rank"),
        Column("mpi", "S128", "", "library and version"),
        Column("versions", "S256", "", "of Python, torch, numpy, mpi4py, h5py, numba"),
        Column("torch_build", "S64", "", "torch version with build, and CPU capability"),
    ),
}
COUNTED = ("steps", "phases", "eval", "probes", "trace")  # tables that belong to the trajectory
