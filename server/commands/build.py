"""``r2sm build``: a bundle's vision model compiled for this machine's GPU, and held against its golden outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from engines.bundles import Bundle
from engines.bundles.manifest import renew_manifest
from engines.errors import BackendUnavailable, EngineError
from engines.vision.golden import GOLDEN_FILE
from engines.vision.runtimes import default_cache_dir


def build(
    bundle: Annotated[Path, typer.Argument(help="The bundle.", exists=True, file_okay=False)],
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where engines are kept; `r2sm serve` must look there.")
    ] = None,
) -> None:
    """Build the TensorRT engines of a bundle, so that its first start does not have to."""
    try:
        loaded = Bundle.load(bundle)
        try:
            from engines.vision.runtimes.tensorrt import first_gpu, open_tensorrt
        except ImportError as error:
            raise BackendUnavailable(f"TensorRT is not installed: {error}; pip install '.[gpu]'") from error
        first_gpu()
        if not (loaded.vision_path / GOLDEN_FILE).is_file():
            add_golden(loaded)
        with tqdm(unit="step") as bar:

            def report(graph: str, phase: str, done: int, steps: int) -> None:
                bar.set_description(f"{graph}: {phase}", refresh=False)
                bar.total, bar.n = steps, done
                bar.refresh()

            runtime = open_tensorrt(loaded.vision_path, cache_dir or default_cache_dir(), report)
        told = runtime.info()
        runtime.close()
    except (EngineError, OSError) as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{loaded.name}: engines {told['engines']} for {told['device']}, faithful to the reference")


def add_golden(bundle: Bundle) -> None:
    """Put golden outputs into a bundle that has none, and into its manifest."""
    from engines.vision.golden_inputs import make_golden  # torch takes seconds

    typer.echo(f"{bundle.path}: has no golden outputs; the torch reference makes them now", err=True)
    make_golden(bundle.vision_path)
    try:
        renew_manifest(bundle.path)
    except BaseException:  # a file that the manifest does not name would make the bundle unusable
        (bundle.vision_path / GOLDEN_FILE).unlink()
        raise
