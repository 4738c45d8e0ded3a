"""Train one network, or K of them by cross-validation: python train.py --task main --cv 5"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which PYTHONSAFEPATH leaves out

from cli.command import Context, run_command
from cli.options import parse_config
from config import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; `argv` is the command line without the program, by default sys.argv."""
    config = parse_config(TrainConfig, argv)
    context = Context(config.command, words=tuple(sys.argv[1:] if argv is None else argv))
    return run_command(lambda: train(config, context), context)


def train(config: TrainConfig, context: Context) -> None:
    """Train the folds of a run one after another, and leave its checkpoints, predictions, summary and report.

    Raises:
        UserError: an error the user can fix; what is trained by then is saved.
        Interrupted: Ctrl-C or SIGTERM, after saving.
        DiskError: a file could not be written.
    """
    from storage.run_folder import RunFolder
    from training.session import Session, check_batch_size, check_run, load_data, read_run

    tables = read_run(config)
    run = RunFolder.of(config.save_path, config.task, config.model_type, cv=config.cv)
    folds = config.folds if config.folds is not None else tuple(range(config.cv))
    check_run(config, run, folds, tables.split)

    # Torch takes seconds to import: errors in options, folders and labels are reported before.
    from training.device import set_deterministic
    from training.distributed import Processes
    from training.fold import initial_weights, train_fold
    from training.memory import choose_batch_size, explain_full_memory

    dist = Processes.from_environment()
    check_batch_size(config.batch_size, dist)
    device = dist.choose_device(config.device)
    set_deterministic(config.deterministic)
    with dist.connect(device):
        context.joined = True
        weights = dist.run_on_main(lambda: initial_weights(config, folds[0]))
        data = load_data(config, tables, dist)
        config = replace(config, batch_size=choose_batch_size(config, run, data, weights, dist, device))
        session = Session(config, run, folds, data, weights, dist, device)
        with session.open(context):
            for fold in folds:
                with explain_full_memory(session):
                    train_fold(session, fold)
                session.summarise()
    session.print_result()


if __name__ == "__main__":
    sys.exit(main())
