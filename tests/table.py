"""One table drives the generic tests: every entry of the zoo, its hyperparameters, and the claim it must meet.

hyper: values under which every part of the entry is at work, for comparisons bit by bit. The claim is about least
squares (problems.Regression) with rows dealt at random: after `steps` steps at rate lr/sqrt(t + 1), or lr, the gap
f - f* is at most `gap` of what it was at the start, for n = 1, 3 and 4 voters. A second list holds forms of an entry
that other hyperparameters switch on.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Claim:
    lr: float
    gap: float
    steps: int = 600
    hyper: dict = field(default_factory=dict)
    constant: bool = False

    def rate(self, t):
        return self.lr if self.constant else self.lr / (t + 1) ** 0.5


@dataclass(frozen=True)
class Row:
    hyper: dict
    claim: Claim
    scale: float = 1.0  # of the rates in comparisons bit by bit, for methods to which 0.01 is too much
    bitwise: bool = True  # x equals the reference's bit for bit; else within 4 ulp of it, step by step


# what is no matrix at the rate of one
MATRICES = {"momentum": 0.9, "others": 1.0}

TABLE = {
    "signsgd": Row({"option": 2, "weight_decay": 0.1}, Claim(0.1, 1e-4, 500, hyper={"option": 2})),
    "signum": Row({"beta": 0.8, "warmup": 6, "weight_decay": 0.1}, Claim(0.1, 3e-3, 500)),
    "signsgd-sim": Row({"beta": 0.7, "weight_decay": 0.1}, Claim(0.1, 3e-3, 500)),
    "lion": Row({"beta1": 0.7, "beta2": 0.9, "weight_decay": 0.1}, Claim(0.1, 2e-3, 500)),
    "rprop": Row({"least": 1e-4, "most": 0.5}, Claim(0.01, 1e-4, 500)),
    "sign-igt": Row({"beta": 0.7, "weight_decay": 0.1}, Claim(0.1, 1e-3, 500)),
    "signprox": Row({"l1": 0.3, "box": 0.05}, Claim(0.1, 6e-4, 500)),
    "accelerated-signgd": Row({"momentum": 0.8}, Claim(0.03, 5e-5, 500)),
    "focus": Row({"beta1": 0.7, "beta2": 0.9, "weight_decay": 0.1}, Claim(0.1, 1e-3, 500)),
    "signsgd-free": Row({"most": 0.01, "weight_decay": 0.1}, Claim(1.0, 5e-3, 500, constant=True, hyper={"most": 0.1})),
    "hybrid-signsgd": Row({"noise": 0.5, "switch": 7, "weight_decay": 0.1}, Claim(0.1, 3e-3, 500)),
    "zo-signsgd": Row(
        {"directions": 3, "weight_decay": 0.1}, Claim(0.2, 2e-2, 500, hyper={"directions": 6}), bitwise=False
    ),
    "ssvr": Row({"beta": 0.4, "start_batches": 3, "weight_decay": 0.1}, Claim(0.1, 5e-4, 500)),
    "ssvr-fs": Row({"beta": 0.2, "every": 4, "weight_decay": 0.1}, Claim(0.1, 1e-2, 500)),
    "signsvrg": Row({"every": 5, "weight_decay": 0.1}, Claim(0.1, 3e-4, 500)),
    "signrr": Row({"weight_decay": 0.1}, Claim(0.1, 6e-4, 500)),
    "signrvr": Row({"weight_decay": 0.1}, Claim(0.1, 2e-4, 500)),
    "signrvm": Row({"beta": 0.7, "weight_decay": 0.1}, Claim(0.1, 1e-3, 500)),
    "signsgd-mv": Row({"weight_decay": 0.1}, Claim(0.1, 1e-4)),
    "signum-mv": Row({"beta": 0.9, "weight_decay": 0.1}, Claim(0.1, 1e-3)),
    "abstain-mv": Row({"threshold": 0.8, "beta": 0.8, "weight_decay": 0.1}, Claim(0.1, 1e-3)),
    "absignsgd-mv": Row({"blocks": 2, "weight_decay": 0.1}, Claim(0.2, 1e-3, hyper={"blocks": 2})),
    "dlion-mavo": Row({"beta1": 0.8, "weight_decay": 0.1}, Claim(0.1, 3e-4)),
    "signsgd-fv": Row({"plain": 5, "forget": 0.9, "limit": 2.0}, Claim(0.1, 5e-4)),
    "noisy-signsgd": Row({"noise": 0.5}, Claim(0.1, 2e-4)),
    "noisy-median": Row({"noise": 0.5}, Claim(0.3, 2e-5), bitwise=False),
    "dp-sign": Row(
        {"clip_rows": 0.5, "epsilon": 2.0},
        Claim(0.3, 0.2, 1500, hyper={"clip_rows": 5.0, "epsilon": 8.0}),
        bitwise=False,
    ),
    "sto-signsgd": Row({"refresh": 3}, Claim(0.1, 2e-4, 1500)),
    "ternary-vote": Row({"silence": 0.3, "refresh": 3, "weight_decay": 0.1}, Claim(0.2, 1e-3, 1000)),
    "sto-signsgd-running": Row({"beta": 0.8, "weight_decay": 0.1}, Claim(0.1, 3e-2, 500)),
    "ssdm": Row({"beta": 0.8}, Claim(0.1, 3e-4, 1500)),
    "dlion-avg": Row({"beta2": 0.9, "weight_decay": 0.1}, Claim(0.1, 3e-4)),
    "mv-signsgd-sim": Row({"beta": 0.8, "radius": "running"}, Claim(0.1, 1e-3)),
    "ssvr-mv": Row({"option": 2, "beta": 0.4, "radius": 3.0}, Claim(0.1, 2e-4)),
    "mvsm": Row({"beta": 0.8, "refresh": 2}, Claim(0.1, 1e-3)),
    "birder": Row({"beta": 0.8, "weight_decay": 0.1}, Claim(0.1, 6e-4)),
    "dlion-unbiased": Row({"beta1": 0.7, "beta2": 0.9, "radius": "running"}, Claim(0.1, 6e-3)),
    "dvr-sign": Row({"beta": 0.3, "start_batches": 4}, Claim(0.1, 4e-4)),
    "dvr-q": Row({"beta": 0.3, "weight_decay": 0.1}, Claim(0.3, 1e-4, 1500)),
    "dist-signrvr": Row({"every": 7}, Claim(0.1, 1e-4)),
    "dist-signrvm": Row({"beta": 0.8, "weight_decay": 0.1}, Claim(0.1, 6e-4)),
    "feedsign": Row({"weight_decay": 0.1}, Claim(0.4, 0.1, 1500)),
    "compsgd-mv": Row({"comparisons": 2, "weight_decay": 0.1}, Claim(2.0, 1e-2, 1000, hyper={"comparisons": 2})),
    "z-signfedavg": Row({"local_steps": 3, "noise": 0.5}, Claim(1.0, 1e-2, 500, hyper={"local_lr": 0.1})),
    "zeroone-adam": Row(
        {"warmup_steps": 7, "thin_every": 2, "local_steps": 3, "grow_every": 2, "weight_decay": 0.1},
        Claim(0.1, 1e-3, 500),
        bitwise=False,
    ),
    "local-sign": Row(
        {"local_steps": 3, "inner": "adam", "weight_decay": 0.1}, Claim(0.1, 1e-3, 500, hyper={"local_lr": 0.1})
    ),
    "local-sign-momentum": Row(
        {"local_steps": 3, "weight_decay": 0.1, "eta": 0.5}, Claim(0.1, 2e-3, 500, hyper={"local_steps": 4})
    ),
    "fedlion": Row({"local_steps": 3, "weight_decay": 0.1}, Claim(0.03, 3e-4, 500)),
    "sparseloco": Row(
        {"local_steps": 3, "density": 0.02, "outer_lr": 0.7, "weight_decay": 0.1},
        Claim(0.1, 1e-4, 500, hyper={"local_steps": 4, "density": 0.1}),
    ),
    "ef-signsgd": Row({"weight_decay": 0.1}, Claim(0.3, 2e-5, 500)),
    "dist-ef-signsgd": Row({"momentum": 0.5, "weight_decay": 0.1}, Claim(0.3, 1e-6)),
    "onebit-adam": Row({"warmup_steps": 5, "weight_decay": 0.1}, Claim(0.3, 1e-6), bitwise=False),
    "onebit-lamb": Row({"warmup_steps": 5, "weight_decay": 0.1}, Claim(0.1, 6e-4)),
    "topk": Row({"density": 0.02, "momentum": 0.5, "weight_decay": 0.1}, Claim(0.3, 2e-6)),
    "randk": Row({"density": 0.02, "momentum": 0.5, "weight_decay": 0.1}, Claim(0.3, 1e-5, hyper={"density": 0.1})),
    "dgc": Row({"density": 0.02, "momentum": 0.5, "clip_norm": 1.0, "weight_decay": 0.1}, Claim(0.1, 1e-5)),
    "strom": Row({"threshold": 0.05, "weight_decay": 0.1}, Claim(0.3, 1e-5, hyper={"threshold": 0.5})),
    "wangni": Row(
        {"density": 0.1, "momentum": 0.5, "weight_decay": 0.1}, Claim(0.1, 2e-4, hyper={"density": 0.3}), bitwise=False
    ),
    "s3gd-mv": Row({"density": 0.02, "momentum": 0.5, "weight_decay": 0.1}, Claim(0.1, 3e-2, hyper={"density": 0.05})),
    "demo": Row({"topk": 64, "chunk": 8, "weight_decay": 0.1}, Claim(0.1, 2e-3, 500, hyper={"topk": 256})),
    "qsgd": Row({"levels": 3, "bucket": 64, "momentum": 0.5, "weight_decay": 0.1}, Claim(0.1, 1e-4), bitwise=False),
    "terngrad": Row({"momentum": 0.5, "weight_decay": 0.1}, Claim(0.1, 1e-4), bitwise=False),
    "onebit-sgd": Row({"bucket": 64, "momentum": 0.5, "weight_decay": 0.1}, Claim(0.1, 1e-4), bitwise=False),
    "diana": Row({"bucket": 64, "momentum": 0.5, "weight_decay": 0.1}, Claim(0.3, 1e-4), bitwise=False),
    "ef21": Row(
        {"code": "two-means", "momentum": 0.5, "weight_decay": 0.1},
        Claim(0.3, 1e-4, hyper={"code": "two-means"}),
        bitwise=False,
    ),
    "doublesqueeze": Row({"up": "levels", "down": "two-means", "weight_decay": 0.1}, Claim(0.3, 1e-6)),
    "lion-cub": Row(
        {"bits": 3, "resolution": 1.5, "sync_every": 3, "weight_decay": 0.1}, Claim(0.1, 1e-3, hyper={"sync_every": 10})
    ),
    "muon": Row({"momentum": 0.8, "weight_decay": 0.1}, Claim(0.1, 1e-2, hyper=MATRICES)),
    "signmuon": Row({"momentum": 0.8, "weight_decay": 0.1}, Claim(0.1, 5e-3, hyper=MATRICES)),
    "olion": Row({"beta1": 0.7, "beta2": 0.8, "weight_decay": 0.1}, Claim(0.1, 3e-4)),
    "muonusign": Row({"momentum": 0.8, "weight_decay": 0.1}, Claim(0.1, 1e-2, hyper=MATRICES)),
    "muonsign": Row({"momentum": 0.8, "weight_decay": 0.1}, Claim(0.1, 5e-3, hyper=MATRICES)),
    "ef21-muonusign": Row({"momentum": 0.8, "weight_decay": 0.1}, Claim(0.1, 1e-3, hyper=MATRICES)),
    "ef21-muonsign": Row({"momentum": 0.8, "weight_decay": 0.1}, Claim(0.1, 1e-3, hyper=MATRICES)),
    "ef21-signmuon": Row({"momentum": 0.8, "weight_decay": 0.1}, Claim(0.1, 1e-3, hyper=MATRICES)),
    "sgd": Row({"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}, Claim(0.03, 1e-6), bitwise=False),
    "powersgd": Row({"weight_decay": 0.1, "nesterov": True}, Claim(0.03, 1e-6, hyper={"rank": 1}), bitwise=False),
    "adam": Row({"weight_decay": 0.1}, Claim(0.1, 2e-4, 1500), bitwise=False),
    "adagrad": Row({"weight_decay": 0.1}, Claim(0.3, 1e-5, constant=True)),
    "adadelta": Row({"rho": 0.8, "weight_decay": 0.1}, Claim(100.0, 1e-3)),
    "yogi": Row({"beta2": 0.9, "weight_decay": 0.1}, Claim(0.3, 1e-5)),
    "m-svag": Row({"beta": 0.8, "weight_decay": 0.1}, Claim(0.1, 1e-4, constant=True)),
    "nigt": Row({"beta": 0.8, "weight_decay": 0.1}, Claim(0.3, 1e-3)),
    "ssd": Row({"weight_decay": 0.1}, Claim(0.03, 1e-4), scale=1e-3),
    "sag": Row({"weight_decay": 0.1}, Claim(0.05, 1e-8, constant=True), bitwise=False),
    "saga": Row({"weight_decay": 0.1}, Claim(0.05, 1e-8, constant=True), bitwise=False),
}

# other forms of an entry
FORMS = [
    ("signsgd", {"weight_decay": 0.1}),
    ("signsgd", {"grow_every": 2}),
    ("signum", {"beta": 0.8, "warmup": 6, "grow_every": 3}),
    ("rprop", {"least": 1e-4, "most": 0.5, "backtrack": "always"}),
    ("rprop", {"least": 1e-4, "most": 0.5, "backtrack": "risen"}),
    ("signprox", {"l1": 0.3}),
    ("signsgd-free", {"same_batch": False, "most": 0.01}),
    ("zo-signsgd", {"directions": 2, "form": "central"}),
    ("zo-signsgd", {"directions": 3, "majority": True}),
    ("compsgd-mv", {"smoothing": 0.02}),
    ("z-signfedavg", {"local_steps": 2, "law": "uniform", "noise": 0.7}),
    ("local-sign", {"local_steps": 2, "inner": "lion", "vote": "average"}),
    ("local-sign-momentum", {"local_steps": 2, "inner": "sgd"}),
    ("sparseloco", {"local_steps": 2, "density": 0.02, "quantised": False}),
    ("ef-signsgd", {"feedback": False}),
    ("sto-signsgd", {"radius": 2.0, "error_feedback": True}),
    ("sto-signsgd", {"radius": "running", "error_feedback": True, "factor": 0.5}),
    ("absignsgd-mv", {"blocks": 4, "order": "shuffled"}),
    ("ternary-vote", {"radius": "running", "silence": 0.5}),
    ("mv-signsgd-sim", {"radius": "max", "refresh": 2}),
    ("ssvr-mv", {"option": 1, "beta": 0.4, "radius": 3.0}),
    ("ssvr-mv", {"option": 1, "beta": 0.4, "radius": "max"}),
    ("ssvr-mv", {"option": 2, "beta": 0.4, "radius": "running", "project": 2.0}),
    ("mvsm", {"option": 1, "radius": 3.0}),
    ("birder", {"beta": 0.8, "down": "sign"}),
    ("dlion-unbiased", {"beta1": 0.7, "storm": False, "refresh": 3}),
    ("dvr-sign", {"snapshot_every": 3}),
    ("dvr-q", {"snapshot_every": 4}),
    ("dvr-q", {"beta": 0.3, "start_batches": 3}),
    ("dist-ef-signsgd", {"weight_decay": 0.1}),
    ("signsgd-fv", {"plain": 5, "negative": False}),
    ("onebit-lamb", {"warmup_steps": 6}),
    ("topk", {"density": 0.02, "select": "all"}),
    ("topk", {"density": 1.0}),
    ("randk", {"density": 0.1, "feedback": False}),
    ("dgc", {"density": 0.02, "nesterov": True, "momentum": 0.8}),
    ("dgc", {"density": 0.02, "select": "all", "nesterov": True, "clip_norm": 1.0}),
    ("dgc", {"density": 0.01, "warmup_steps": 8}),
    ("dgc", {"density": 0.01, "warmup_steps": 6, "select": "all"}),
    ("s3gd-mv", {"density": 1.0}),
    ("s3gd-mv", {"density": 0.02, "memory": False, "momentum": 0.5}),
    ("demo", {"decay": 0.9}),
    ("powersgd", {"rank": 3, "warm_start": False, "momentum": 0.0}),
    ("signmuon", {"local_polar": True, "nesterov": True, "polar": "converged"}),
    ("muonusign", {"scaled": False, "nesterov": True}),
    ("muonsign", {"polar": "converged", "scaled": False}),
    ("ef21-muonsign", {"polar": "converged", "nesterov": True}),
    ("qsgd", {"levels": 3, "bucket": 64, "norm": "max", "down": "levels"}),
    ("qsgd", {"levels": 4, "bucket": 128, "spacing": "powers", "down": "levels"}),
    ("qsgd", {"spacing": "exponents"}),
    ("terngrad", {"clip": 0.0}),
    ("diana", {"levels": 3, "norm": "l2", "alpha": 0.25}),
    ("ef21", {"code": "signs"}),
    ("doublesqueeze", {"weight_decay": 0.1}),
    ("lion-cub", {"bits": 2, "sync_every": 0}),
    ("lion-cub", {"bits": 5, "sync_every": 2, "synced": "vectors"}),
    ("doublesqueeze", {"up": "two-means", "down": "levels"}),
    ("doublesqueeze", {"up": "topk", "down": "topk", "density": 0.05, "weight_decay": 0.1}),
    ("doublesqueeze", {"up": "randk", "down": "signs", "density": 0.1}),
    ("ef21", {"code": "topk", "density": 0.05, "momentum": 0.5}),
    ("ef21", {"code": "randk", "density": 0.1}),
]

FORMS_BY_ROW = [(name, row.hyper) for name, row in TABLE.items()] + FORMS
