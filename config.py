"""Edit the defaults of all options here; the first classes are the groups of --help, which the commands inherit."""

from dataclasses import dataclass, field
from typing import Any, Literal

from cli import checks, choices
from cli.options import Config, option
from data.faces import Labelled

# Named sets of options of train.py: --preset NAME. Options that are typed win.
PRESETS: dict[str, dict[str, Any]] = {
    "source": {  # the best model of the competition entry that this toolkit began with
        **{"model_type": "VanillaEfficientNet", "backbone": "efficientnet-b3", "image_size": 224, "batch_size": 32},
        **{"transform_type": "tta", "optim_type": "adam", "lr": 0.001, "lr_scheduler": "cosine_restarts", "cv": 5},
    },
    "strong": {  # trains faces better: docs/training.md
        **{"model_type": "JointHeads", "backbone": "efficientnet-b3"},
        **{"transform_type": "random", "crop_scale": 0.35, "mirror": True, "batch_size": 32},
        **{"loss_type": "crossentropyloss", "logit_adjustment": 0.5, "precise_bn": 1024, "cv": 5},
        **{"optim_type": "adamw", "lr": 0.002, "run_decay": 1.5, "lr_scheduler": "onecycle"},
    },
}
PRESETS["vit"] = PRESETS["strong"] | {  # the same for transformers, which have no BatchNorm
    **{"backbone": "swin_t", "run_decay": 0.0, "precise_bn": 0, "layer_decay": 0.75, "clip_grad": 1.0},
}
CROP_SCALE = 0.08  # torchvision's default, and the source's
SHOWN_HIGH, DRAWS_HIGH = 20, 60  # of show_views: a JPEG is at most 65,535 pixels high


@dataclass
class Images:
    """Data."""

    train_root: str = option("./input/data/train/images", "folder with one folder of images per person", path=True)
    data: str | None = option(None, "CSV of images, or folder of a folder per class", path=True, text="--train-root")
    image_root: str | None = option(None, "folder of the files in --data", path=True, text="that of the CSV")
    label: tuple[str, ...] | None = option(None, "columns of labels in --data, as in a,b", text="class, of folders")
    regression: bool = option(False, "the labels in --data are numbers to predict")
    group: str | None = option(None, "column of the groups that no fold may split", text="each image by itself")
    group_regex: str | None = option(None, "groups in file names of folders, as in '^(P[0-9]+)'", text="none")
    image_column: str | None = option(None, "column of the files", text="path, file, image and the like")
    folds_from: str | None = option(None, "column of the fold that validates an image", text="none")
    corrections: str | None = option(None, "CSV of label corrections: id,gender,age,file,mask", path=True, text="none")
    cv: int = option(5, "number of folds; 1 holds out 10 %% of the people", low=1)
    max_megapixels: float = option(100.0, "largest image to read, in megapixels", low=0.001)


@dataclass
class Data(Images):
    """Data."""

    valid_root: str | None = option(None, "validate every fold on this folder instead", path=True, text="none")
    cv: int = option(1, "number of folds; 1 holds out 10 %% of the people", low=1)
    folds: tuple[int, ...] | None = option(None, "folds to train, as in 0,2", text="all")
    on_bad_image: str = option("stop", "unreadable images: stop, or skip and report them", choices=choices.BAD_IMAGE)
    two_genders: str = option("stop", "people with two genders: stop, or keep both", choices=choices.TWO_GENDERS)
    pseudo_labels: str | None = option(None, "folder of a prediction to train on too", path=True, text="none")
    pseudo_share: float = option(0.5, "share of --pseudo-labels to use, the most confident", low=0.01, high=1)
    age_filter: int | None = option(None, "train people of at least this age as 60 and over", text="off")
    age_sigma: float = option(0.0, "soft age groups: standard deviation in years; 0 disables", low=0)
    oversample: bool = option(False, "add MixUp images within scarce classes")
    balance: float = option(0.0, "sampling of scarce classes: 0 as is, 1 all classes equal", low=0, high=1)


@dataclass
class Model:
    """Model."""

    model_type: str = option("VanillaEfficientNet", "network", choices=choices.MODELS)
    backbone: str | None = option(None, "backbone; python -m tools models lists them", text="by network")
    image_size: int = option(224, "side of the network's input in pixels", low=checks.MIN_IMAGE_SIZE)
    pretrained: bool | str = option(True, "start the backbone from published weights, or from a file of them")
    load_state_dict: str | None = option(None, "checkpoint or state dict to start from", path=True, text="none")
    extend_from: str | None = option(None, "run to train longer, each fold from its own", path=True, text="none")
    extend_weights: str = option("best", "epoch that --extend-from starts from", choices=choices.EXTEND_WEIGHTS)
    new_head: bool = option(False, "load only the backbone from --load-state-dict or --extend-from")
    freeze: bool = option(False, "train only the head")
    drop_path: float | None = option(None, "highest rate of skipped blocks", low=0, high=0.95, text="by network")
    grad_checkpointing: bool = option(False, "recompute activations, which saves memory; timm only")


@dataclass
class Augmentation:
    """Augmentation."""

    transform_type: str = option("base", "how images are cropped and augmented", choices=choices.TRANSFORMS)
    crop_scale: float = option(CROP_SCALE, "smallest area of a random crop, as a share", low=0.01, high=1)
    mirror: bool = option(False, "mirror every second training image")
    erasing: float = option(0.0, "probability of random erasing", low=0, high=1)
    inference_crop: float | None = option(None, "inference crop, share of a side", low=0.1, high=1, text="by transform")
    train_side: float = option(1.0, "side of training images, as a share of --image-size", low=0.1, high=1)

    def cuts(self) -> dict[str, Any]:
        """Return the arguments of augmentation.build_transform that are options."""
        return {name: getattr(self, name) for name in ("crop_scale", "mirror", "erasing", "inference_crop")}


@dataclass
class BatchMixing:
    """Augmentation."""

    mixup: float = option(0.0, "MixUp alpha; 0 disables it", low=0)
    cutmix: float = option(0.0, "CutMix alpha; 0 disables it", low=0)


@dataclass
class Optimization:
    """Optimization."""

    epochs: int = option(30, "passes over the training images", low=1)
    patience: int = option(0, "epochs without a better score that end a fold; 0 disables it", low=0)
    batch_size: int | Literal["auto"] = option(32, "images per batch; auto is the most that fit the GPU", low=2)
    accumulate: int = option(1, "batches whose gradients make one step of the optimizer", low=1)
    loss_type: str | None = option(None, "loss", choices=choices.LOSSES, text=choices.DEFAULT_LOSSES)
    logit_adjustment: float = option(0.0, "logit adjustment for scarce classes; 0 disables it", low=0)
    optim_type: str = option("adam", "optimizer", choices=choices.OPTIMIZERS)
    lr: float = option(0.005, "peak learning rate", low=0)
    backbone_lr: float = option(1.0, "learning rate of the backbone, as a share of --lr", low=0)
    layer_decay: float = option(1.0, "decay of --lr per layer below the head; 1 disables it", low=0.01, high=1)
    lr_scheduler: str = option("cosine", "learning-rate schedule, updated every step", choices=choices.SCHEDULES)
    restart_epochs: int = option(5, "epochs per cycle of cosine_restarts", low=1)
    warmup_epochs: float = option(0.0, "epochs of linear warm-up", low=0)
    weight_decay: float | None = option(None, "weight decay", low=0, text="0.05 adamw, 0.01 adamp, else 0")
    run_decay: float = option(0.0, "adamw weight decay scaled to the run's length; 0 disables it", low=0)
    clip_grad: float = option(0.0, "largest norm of the gradients of a step; 0 disables clipping", low=0)
    ema: float = option(0.0, "decay of the averaged weights (EMA), as in 0.99; 0 disables it", low=0, high=0.99999)
    precise_bn: int = option(0, "images to recompute BatchNorm statistics from; 0 disables it", low=0)
    seed: int = option(42, "seed of the split, the weights and the augmentation", low=0)


@dataclass
class Checkpoints:
    """Checkpoints and reports."""

    save_path: str = option("./saved_models", "folder of the runs", path=True)
    top_n: int = option(3, "checkpoints kept per fold", low=1)
    metric: str | None = option(None, "score that ranks checkpoints, or FILE.py:FUNCTION", text=choices.DEFAULT_METRICS)
    save_every_steps: int = option(0, "steps between resume states; 0 saves per epoch only", low=0)
    resume: bool = option(False, "continue the run in --save-path, or start it")
    overwrite: bool = option(False, "delete the run in --save-path and train again")
    report: bool = option(True, "write report.html after every fold")
    tracker: str = option("none", "experiment tracker, installed separately", choices=choices.TRACKERS)


@dataclass
class System:
    """System."""

    num_workers: int = option(-1, "loader processes; -1 is one per core but one, half of them on a CPU", low=-1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    precision: str = option("auto", "dtype of the computation; auto is 16 bit on a GPU", choices=choices.PRECISIONS)
    cuda_graphs: bool = option(True, "replay steps as CUDA graphs, on a GPU")


@dataclass
class TrainSystem(System):
    """System."""

    compile: bool = option(False, "compile the network with torch.compile")
    deterministic: bool = option(False, "use only deterministic operations; slower")
    cache: str = option("ram", "decoded images to keep: in half of the free memory, or none", choices=choices.CACHES)


@dataclass
class Runs:
    """Runs."""

    task: str = option("main", "task of the runs")
    root: tuple[str, ...] | None = option(None, "run folders, separated by commas", text="all runs of the task")


@dataclass
class TrainConfig(Data, Model, Augmentation, BatchMixing, Optimization, Checkpoints, TrainSystem, Labelled, Config):
    """Train one network, or K of them by K-fold cross-validation over people."""

    command = "train.py"
    check = checks.check_training
    presets = PRESETS
    labels: list[dict[str, Any]] | None = field(default=None, repr=False, compare=False, kw_only=True)
    task: str = option("main", "what to learn; of --data a label, or a+b for a,b", text="main; all labels of --data")
    preset: str | None = option(None, "named set of options, listed below", choices=PRESETS, text="none")

    @property
    def validated_root(self) -> str:
        """Return the folder of the images to validate on."""
        return self.valid_root or (checks.image_folder(self) if self.data else self.train_root)


@dataclass
class PredictConfig(System, Config):
    """Options that the two prediction commands share."""

    task: str = option(TrainConfig.task, "what to predict; checkpoints know their own")
    model_type: str = option(TrainConfig.model_type, "network; checkpoints know their own", choices=choices.MODELS)
    backbone: str | None = option(None, "backbone of a bare state dict", text="by network")
    image_size: int | None = option(None, "image size of a bare state dict", low=checks.MIN_IMAGE_SIZE, text="224")
    transform_type: str | None = option(None, "cropping of images", choices=choices.TRANSFORMS, text="as in training")
    data_root: str = option("./input/data/images", "folder to predict, in the order of ../info.csv, or CSV", path=True)
    image_root: str | None = option(None, "folder of the files in a CSV", path=True, text="that of the CSV")
    image_column: str | None = option(None, "column of the files in a CSV", text="path, file, image and the like")
    proba: bool = option(False, "write the probability of each class instead of the answer")
    tta: int = option(1, "test-time views per image", low=1)
    batch_size: int = option(64, "images per step", low=1)
    on_bad_image: str = option("stop", "unreadable images: stop, or skip and report them", choices=choices.BAD_IMAGE)
    max_megapixels: float = option(Images.max_megapixels, "largest image to read, in megapixels", low=0.001)
    save_path: str = option("./prediction", "folder of the predictions", path=True)


@dataclass
class SingularConfig(PredictConfig):
    """Predict with one network and write a submission file."""

    command = "submit_singular.py"
    load_state_dict: str | None = option(None, "checkpoint or state dict", path=True, text="best of the single run")


@dataclass
class EnsembleConfig(PredictConfig):
    """Predict with the best checkpoints of every fold, combine them by voting and write the submission files."""

    command = "submit_ensemble.py"
    check = checks.check_ensemble
    root: str | None = option(None, "folder of a K-fold run", path=True, text="where train.py saves")
    top_k: int = option(3, "best checkpoints per fold to use", low=1)
    folds: tuple[int, ...] | None = option(None, "folds to use, as in 0,2", text="all")
    method: str = option("softvoting", "average the probabilities, or count votes", choices=choices.METHODS)
    recipe: str | None = option(None, "recipe.json of design_ensemble", path=True, text="none")
    members_at_once: int = option(0, "members in memory at a time; 0 is all that fit", low=0)


@dataclass
class JoinConfig(Config):
    """Write log.csv, oof.csv and summary.json of a run whose folds were trained by several commands."""

    command = "python -m tools join_folds"
    task: str = option(TrainConfig.task, "task of the run")
    model_type: str = option(TrainConfig.model_type, "network, if there are runs of several", choices=choices.MODELS)
    root: str | None = option(None, "folder of a K-fold run", path=True, text="where train.py saves")


@dataclass
class CompareConfig(Runs, Config):
    """Compare runs on the same people: paired differences with intervals."""

    command = "python -m tools compare_runs"
    report: str | None = option(None, "HTML page to write", path=True, text="none")


@dataclass
class ReportConfig(Runs, Config):
    """Write the HTML report of a run from its files."""

    command = "python -m tools make_report"
    train_root: str | None = option(None, "folder of the training images", path=True, text="as in training")


@dataclass
class LabelErrorConfig(JoinConfig):
    """Find labels that are likely wrong from the out-of-fold predictions of a run."""

    command = "python -m tools find_label_errors"
    share: float = option(0.05, "largest share of the groups, and of the images, to suspect", low=0.001, high=1)
    show: int = option(20, "groups and images to print and draw, the most suspicious first", low=1)
    overwrite: bool = option(False, "replace a corrections.csv or suspects.csv that was edited")


@dataclass
class DesignConfig(Runs, System, Config):
    """Select an ensemble from out-of-fold predictions and write a recipe."""

    command = "python -m tools design_ensemble"
    check = checks.check_design
    train_root: str | None = option(None, "training images: a folder, or CSV", path=True, text="as in training")
    image_root: str | None = option(None, "folder of the files in that CSV", path=True, text="as in training")
    valid_root: str | None = option(None, "folder of the --valid-root images", path=True, text="as in training")
    corrections: str | None = option(None, "CSV of label corrections", path=True, text="as in training")
    top_k: int = option(EnsembleConfig.top_k, "best checkpoints per fold to choose from", low=1)
    tta: int = option(2, "largest number of test-time views to try", low=1)
    soups: bool = option(True, "also try the averaged weights of each fold's checkpoints")
    calibrate: bool = option(False, "fit a temperature and an offset per class")
    metric: str | None = option(None, "score to select by, or FILE.py:FUNCTION", text="that of the first run")
    seed: int = option(42, "seed of the resamples", low=0)
    name: str | None = option(None, "name of the recipe's folder", path=True, text="networks of the runs")
    batch_size: int = option(PredictConfig.batch_size, "images per step", low=1)
    save_path: str = option("./ensembles", "folder of the recipes", path=True)


@dataclass
class CheckConfig(Images, Config):
    """Check a folder of training images: counts, strata and errors."""

    command = "python -m tools check_data"
    check = checks.check_data
    two_genders: str = option(Data.two_genders, "people with two genders", choices=choices.TWO_GENDERS)


@dataclass
class ShowConfig(Images, Augmentation, Config):
    """Draw what a network sees: training images, validation and test-time views, and MixUp."""

    command = "python -m tools show_views"
    check = checks.check_showing
    transform_type: str = option("all", "transform to show", choices=("all", *choices.TRANSFORMS))
    model_type: str = option(TrainConfig.model_type, "network to show images for", choices=choices.MODELS)
    backbone: str | None = option(None, "its backbone, whose weights expect crops and pixels", text="by network")
    images: str | None = option(None, "images to show, as in a.jpg,b.jpg, or a folder", path=True, text="--train-root")
    image_size: int = option(TrainConfig.image_size, "side of the network's input in pixels", low=checks.MIN_IMAGE_SIZE)
    seed: int = option(TrainConfig.seed, "seed of the training and of the choice of images", low=0)
    count: int = option(4, "images to show, unless --images names them", low=1, high=SHOWN_HIGH)
    draws: int = option(6, "training epochs to show per image", low=1, high=DRAWS_HIGH)
    save_path: str = option("./views", "folder of the sheets", path=True)


@dataclass
class SampleConfig(Config):
    """Draw a sample set of portraits in the layout of the real data."""

    command = "python -m tools make_sample"
    root: str = option("./input", "folder of the sample set", path=True)
    people: int = option(200, "people to train on, seven images each", low=12)
    eval_people: int = option(40, "people to predict, seven images each", low=1)
    seed: int = option(42, "seed of the drawing", low=0)
    num_workers: int = option(-1, "processes that draw; -1 is one per core", low=-1)
    force: bool = option(False, "replace an earlier sample set")


@dataclass
class ScoreConfig(Config):
    """Score a submission file against a file of true answers."""

    command = "python -m tools score_submission"
    check = checks.check_score
    submission: str | None = option(None, "submission: a CSV with ImageID,ans", path=True, text="required")
    answers: str = option("./input/answers.csv", "true answers: a CSV with ImageID,ans", path=True)
    task: str = option(TrainConfig.task, "task of the submission")
    metric: str | None = option(None, "score to print first, or FILE.py:FUNCTION", text="macro_f1; rmse for numbers")
    group: str | None = option(None, "column of groups in --answers, for intervals", text="none")


@dataclass
class ModelsConfig(Config):
    """List backbones: input size, parameters, normalisation, and whether their weights are on this machine."""

    command = "python -m tools models"
    pattern: str | None = option(None, "part of a name, a glob as in 'vit*', a library", text="all but timm", word=True)


def command_configs() -> list[type[Config]]:
    """Return the config class of every command, in the order of this file."""
    return [each for each in globals().values() if isinstance(each, type) and issubclass(each, Config) and each.command]
