"""Check options that depend on each other; each function raises a UserError that says what to change."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cli.choices import BACKBONES, MODELS, OPTIMIZERS, flag, resolve_name
from data.faces import AGE_BOUNDS, AGE_GROUP, FACES, MAIN
from data.tasks import Task, Tasks
from utils import UserError

MIN_IMAGE_SIZE = 32  # pixels; below it the last feature maps of the backbones vanish
# Options about --data, and about the folders of --train-root.
OF_DATA = ("image_root", "label", "regression", "group", "group_regex", "image_column", "folds_from")
OF_FACES = ("train_root", "valid_root", "corrections", "two_genders", "age_filter", "age_sigma", "pseudo_labels")
FOR_CLASSES = ("model_type", "loss_type", "logit_adjustment")  # of a preset, left out for regression


def check_training(config: Any) -> None:
    """Check the options of train.py and fill in the task, and the backbone and the loss that fit it and the network."""
    check_data(config)
    if config.data and config.labels is None:  # the classes are known when the data are read
        # Without --label a CSV is an error, which names its columns when they are read.
        default = config.task if "task" in config.given and not Path(config.data).is_dir() else "class"
        config.labels = _unread_tasks(config.label or (default,), regression=config.regression).as_plain()
        if "task" not in config.given and config.task == type(config).task:
            config.task = config.tasks.default.name
    config.task = resolve_name("--task", config.task, config.tasks)
    config.metric = check_metric(config.metric, config.record)
    config.backbone = check_network(config.record, config.model_type, config.backbone)
    losses = config.record.losses
    config.loss_type = config.loss_type or losses[0]
    if config.loss_type not in losses:
        raise UserError(f"--loss-type {config.loss_type} does not fit task {config.task}. Use {', '.join(losses)}.")
    check_seed(config.seed)
    train_size(config.train_side, config.image_size)
    if config.lr == 0:
        raise UserError("--lr must be greater than 0. Got 0.")
    if config.precise_bn == 1:
        raise UserError("--precise-bn must be 0, or at least 2 images. Got 1.")
    if config.warmup_epochs >= config.epochs:
        raise UserError(f"--warmup-epochs must be below --epochs {config.epochs}. Got {config.warmup_epochs}.")
    if config.patience:
        _check_patience(config)
    if not config.folds_from:  # else the number of folds is known when the data are read
        check_folds(config)
    _check_task(config)
    _check_conflicts(config)


def check_folds(config: Any) -> None:
    """Check that --folds names folds of the run."""
    wrong = [k for k in config.folds or () if not 0 <= k < config.cv]
    if wrong:
        raise UserError(f"--folds must be numbers from 0 to {config.cv - 1} with {config.cv} folds. Got {wrong[0]}.")


def check_data(config: Any) -> None:
    """Check the options about the images and labels."""
    about = [flag(name) for name in OF_DATA if getattr(config, name) not in (None, False)]
    if not config.data:
        if about:
            raise UserError(f"{about[0]} needs --data with a CSV or a folder. Pass both or neither.")
        return
    typed = [flag(name) for name in OF_FACES if name in config.given]
    if typed:
        raise UserError(f"{typed[0]} is for the folders of --train-root and cannot be used with --data. Leave it out.")
    if config.folds_from and "cv" in config.given:
        raise UserError("--folds-from and --cv both set the folds. Pass one of the two.")


def own_data(config: Any) -> dict[str, Any] | None:
    """Return the arguments of `data.prepare.read_labels`, or None for the layout of faces."""
    return {name: getattr(config, name) for name in ("data", *OF_DATA)} if config.data else None


def image_folder(config: Any) -> str:
    """Return the folder that the names of the images in --data begin in."""
    return config.image_root or (config.data if Path(config.data).is_dir() else str(Path(config.data).parent))


def _unread_tasks(labels: Sequence[str], *, regression: bool) -> Tasks:
    """Return the tasks of labels whose classes, or numbers, are not known yet."""
    parts = tuple(Task(name, name, (), regression=regression) for name in labels)
    joint = (Task("+".join(labels), "", (), parts),) if len(parts) > 1 and not regression else ()
    return Tasks(*joint, *parts)


def _check_patience(config: Any) -> None:
    """Check that --patience can end a fold, and not before its learning rate has fallen."""
    patience, schedule, cycle = config.patience, config.lr_scheduler, config.restart_epochs
    if patience >= config.epochs:
        raise UserError(f"--patience must be below --epochs {config.epochs}. Got {patience}.")
    if patience < config.warmup_epochs:
        raise UserError(f"--patience must be at least --warmup-epochs {config.warmup_epochs}. Got {patience}.")
    if schedule == "cosine_restarts" and patience < cycle:  # scores fall after a restart, until the end of the cycle
        raise UserError(f"--patience must be at least --restart-epochs {cycle}, a cycle. Got {patience}.")
    if schedule not in ("cosine_restarts", "none"):
        raise UserError(
            f"--patience can end a fold before --lr-scheduler {schedule} has lowered the learning rate, which improves "
            "the score most. Pass --lr-scheduler none or cosine_restarts, or leave --patience out."
        )


def _check_task(config: Any) -> None:
    """Check the options that need age groups or classes."""
    has_age_groups = config.task in (MAIN.name, AGE_GROUP.name) or not MODELS[config.model_type].has_one_head
    has_classes = not config.record.regression
    for name, needed, has_them in (
        ("age_filter", "age groups", has_age_groups),
        ("age_sigma", "age groups", has_age_groups),
        ("pseudo_labels", "classes", has_classes),
        ("logit_adjustment", "classes", has_classes),
    ):
        if getattr(config, name) and not has_them:
            raise UserError(f"{flag(name)} needs {needed}, and task {config.task} has none. Leave it out.")
    if config.age_filter is not None and not AGE_BOUNDS[0] < config.age_filter <= AGE_BOUNDS[1]:
        raise UserError(f"--age-filter must be {AGE_BOUNDS[0] + 1} to {AGE_BOUNDS[1]}. Got {config.age_filter}.")


def _check_conflicts(config: Any) -> None:
    """Check the options that exclude or need each other."""
    if config.logit_adjustment and config.balance:
        raise UserError("--logit-adjustment and --balance both compensate for scarce classes. Pass one of the two.")
    if config.inference_crop is not None and config.transform_type == "tta":
        raise UserError("--inference-crop has no effect with transform tta, which crops at random. Leave it out.")
    if "pseudo_share" in config.given and not config.pseudo_labels:
        raise UserError("--pseudo-share has no effect without --pseudo-labels. Pass both or neither.")
    if isinstance(config.pretrained, str) and not config.pretrained:
        raise UserError("--pretrained must not be an empty name. Pass a file, or --pretrained alone.")
    if isinstance(config.pretrained, str) and (config.load_state_dict or config.extend_from):
        other = "--load-state-dict" if config.load_state_dict else "--extend-from"
        raise UserError(f"--pretrained FILE and {other} both set the first weights. Pass one of the two.")
    if config.freeze:
        unused = [name for name in ("drop_path", "grad_checkpointing") if getattr(config, name)]
        unused += [name for name in ("backbone_lr", "layer_decay") if getattr(config, name) != 1]
        if unused:
            raise UserError(f"{flag(unused[0])} has no effect with --freeze. Pass one of the two.")
    if config.backbone_lr != 1 and config.layer_decay != 1:
        raise UserError("--backbone-lr and --layer-decay both set the backbone's learning rate. Pass one of the two.")
    if config.run_decay and config.optim_type != "adamw":
        raise UserError(f"--run-decay needs --optim-type adamw, not {config.optim_type}. Leave it out.")
    if config.run_decay and config.weight_decay is not None:
        raise UserError("--weight-decay and --run-decay both set the weight decay. Pass one of the two.")
    if "crop_scale" in config.given and config.transform_type == "facecrop":
        raise UserError("--crop-scale has no effect with transform facecrop, which crops a fixed size. Leave it out.")
    given = config.load_state_dict or config.extend_from
    if config.freeze and not config.pretrained and not given:
        raise UserError("--freeze keeps the random backbone of --no-pretrained. Drop one, or pass --load-state-dict.")
    if config.new_head and not given:
        raise UserError("--new-head needs the weights of --load-state-dict or --extend-from. Pass both or neither.")
    if config.load_state_dict and config.extend_from:
        raise UserError("--load-state-dict and --extend-from both set the first weights. Pass one of the two.")
    if "extend_weights" in config.given and not config.extend_from:
        raise UserError("--extend-weights has no effect without --extend-from. Pass both or neither.")
    if config.resume and config.overwrite:
        raise UserError("--resume continues a run and --overwrite deletes it. Pass one of the two.")


def check_ensemble(config: Any) -> None:
    """Check the options of submit_ensemble.py."""
    fixed = ("root", "top_k", "folds", "method", "tta", "model_type", "backbone", "image_size", "transform_type")
    typed = [flag(name) for name in fixed if name in config.given]
    if config.recipe and typed:
        raise UserError(f"--recipe already sets {', '.join(typed)}. Leave {'it' if len(typed) == 1 else 'them'} out.")


def check_answers(task: Task, *, voted: bool, proba: bool) -> None:
    """Check that a task has the classes that votes and probabilities need."""
    if voted and proba:
        raise UserError("--proba needs probabilities, and --method hardvoting counts votes. Pass one of the two.")
    if task.regression and (voted or proba):
        option, advice = ("--method hardvoting", "Use softvoting") if voted else ("--proba", "Leave it out")
        raise UserError(f"{option} needs classes, and task {task.name} has none. {advice}.")


def check_showing(config: Any) -> None:
    """Check the options of show_views, and fill in the backbone that fits the network."""
    check_data(config)
    config.backbone = check_network(MAIN, config.model_type, config.backbone)
    check_seed(config.seed)
    train_size(config.train_side, config.image_size)
    unused = [
        flag(name) for name in ("train_root", "data", "corrections", "cv") if config.images and name in config.given
    ]
    if unused:
        raise UserError(f"{', '.join(unused)} cannot be used with --images, which has no labels. Pass one of the two.")


def check_design(config: Any) -> None:
    """Check the options of design_ensemble."""
    if config.name and Path(config.name).name != config.name:
        raise UserError(f"--name must be a name without a folder. Got '{config.name}'.")


def check_score(config: Any) -> None:
    """Check the options of score_submission."""
    if config.submission is None:
        raise UserError("--submission is required. Pass the file to score.")


def check_metric(metric: str | None, task: Task) -> str | None:
    """Return the full name of a score of a task, or the absolute path and the function of the user."""
    if metric and ":" in metric:
        path, _, function = metric.rpartition(":")
        return f"{Path(path).absolute()}:{function}"
    names = replace(task, metric=None).scores
    return metric and resolve_name("--metric", metric, [*names, "FILE.py:FUNCTION"])


def check_network(task: Task, model_type: str, backbone: str | None) -> str:
    """Return the backbone to use, by default the network's own; raise if it cannot learn the task."""
    record = MODELS[model_type]
    if task.regression and not record.has_one_head:
        single = ", ".join(name for name, r in MODELS.items() if r.has_one_head)
        raise UserError(f"{model_type} predicts classes and cannot learn task {task.name}. Use one of {single}.")
    backbone = backbone or record.backbone
    if record.library:
        # model.create_backbone looks up the names of a library, which takes seconds to import.
        return next((name for name in record.backbones if name == backbone.lower()), backbone)
    backbone = resolve_name("--backbone", backbone, BACKBONES)
    if backbone not in record.backbones:
        raise UserError(f"--backbone {backbone} does not fit {model_type}. Use one of {', '.join(record.backbones)}.")
    return backbone


def train_size(train_side: float, image_size: int) -> int:
    """Return the side of training images in pixels; raise if it is below MIN_IMAGE_SIZE."""
    size = round(train_side * image_size)
    if size < MIN_IMAGE_SIZE:
        raise UserError(
            f"--train-side {train_side} of --image-size {image_size} is {size} pixels. Use at least {MIN_IMAGE_SIZE}."
        )
    return size


def check_seed(seed: int) -> None:
    """Check that scikit-learn, which splits the people, accepts a seed."""
    if seed >= 2**32:
        raise UserError(f"--seed must be below {2**32}. Got {seed}.")


def preset_values(preset: dict[str, Any], typed: dict[str, Any], defaults: Any) -> dict[str, Any]:
    """Return the options of a preset that fit what was typed; `defaults` is the config class."""
    task = "" if typed.get("data") else resolve_name("--task", typed.get("task", defaults.task), FACES)
    left_out = set(FOR_CLASSES) if typed.get("regression") or (task and FACES[task].regression) else set()
    network = resolve_name("--model-type", typed.get("model_type", preset["model_type"]), MODELS)
    if network != preset["model_type"] or "model_type" in left_out:
        left_out.add("backbone")  # it was chosen for the network of the preset
    optimizer = resolve_name("--optim-type", typed.get("optim_type", preset["optim_type"]), OPTIMIZERS)
    if optimizer != preset["optim_type"] or "weight_decay" in typed:
        left_out.add("run_decay")  # it needs adamw, and excludes --weight-decay
    if "backbone_lr" in typed or typed.get("freeze"):
        left_out.add("layer_decay")  # which they exclude
    return {name: value for name, value in preset.items() if name not in left_out}
