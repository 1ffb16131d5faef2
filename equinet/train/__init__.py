"""Training: a loop one can read, and what feeds and watches it."""

if __name__ != "equinet.train":
    raise ImportError("import this folder as `equinet.train`")

from .assemble import assemble
from .config import DataConfig, RunConfig, TrainConfig, parse_config, read_config, to_toml
from .evaluate import Evaluation, evaluate_file
from .loop import Data, Reporter, fit, make_optimizer, train_step, validate
from .loss import Loss
from .metrics import Errors, Predictions, errors, predict
from .predictions import predict_file, predict_frames
from .prepare import Prepared, make_loss, make_potential, prepare
from .run import Interrupted, Result, RunReporter, run
from .state import TrainingState

__all__ = [
    "Data",
    "DataConfig",
    "Errors",
    "Evaluation",
    "Interrupted",
    "Loss",
    "Predictions",
    "Prepared",
    "Reporter",
    "Result",
    "RunConfig",
    "RunReporter",
    "TrainConfig",
    "TrainingState",
    "assemble",
    "errors",
    "evaluate_file",
    "fit",
    "make_loss",
    "make_optimizer",
    "make_potential",
    "parse_config",
    "predict",
    "predict_file",
    "predict_frames",
    "prepare",
    "read_config",
    "run",
    "to_toml",
    "train_step",
    "validate",
]
