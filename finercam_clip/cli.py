"""The command line: arguments to calls. No logic of its own; heavy imports come after the arguments are parsed."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from finercam_clip import __version__, progress
from finercam_clip.errors import InputError
from finercam_clip.options import Options, preset

_SHOWN = 10  # texts in the summary of `explain`
_EVALUATED = ["hirescam", "gradcam"]
_EXAMPLES = {
    "demo": ["finercam-clip demo --output demo.png"],
    "explain": [
        'finercam-clip explain bird.jpg --target "a bird with a red crown" --contrast "a bird with a blue crown"',
        "finercam-clip explain photos/ --concepts birds-traits --model ViT-B-16 --pretrained openai",
    ],
    "generate": ["finercam-clip generate stanford_cars/test --head classifier_cars_DINO.pth --output run"],
    "visualize": ["finercam-clip visualize run"],
    "dataset": ["finercam-clip dataset check CUB_200_2011"],
    "methods": ["finercam-clip methods"],
    "models": ["finercam-clip models | grep SigLIP2"],
    "bench": [
        "finercam-clip bench --model ViT-B-16 --pretrained random --batch 16",
        "finercam-clip bench --methods all",
    ],
    "evaluate": [
        "finercam-clip evaluate aviary --questions 100 --method hirescam --method legrad",
        "finercam-clip evaluate sanity",
    ],
    "ui": ["finercam-clip ui", "finercam-clip ui --model ViT-B-16 --pretrained openai --port 8000"],
}


class _Parser(argparse.ArgumentParser):
    """One line on stderr for a wrong argument, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="finercam-clip", description="Where does an image say one concept and not others?")
    parser.add_argument("--version", action="version", version=f"finercam-clip {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def add_command(name: str, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog="\n  ".join(["examples:" if len(_EXAMPLES[name]) > 1 else "example:", *_EXAMPLES[name]]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--quiet", action="store_true", help="no progress: results, warnings and errors only")
        return command

    demo = add_command("demo", "the bundled model on its bundled image: writes finercam-demo.png")
    demo.add_argument("--output", type=Path, default=Path("finercam-demo.png"), help="picture to write (%(default)s)")
    demo.set_defaults(run=_demo)

    explain = add_command(
        "explain",
        "one image, a target, its contrasts: scores and a picture; or a folder and a list of traits: a table",
    )
    explain.add_argument("image", type=Path, help="an image file; with --concepts a folder or a list of images")
    explain.add_argument("--target", action="append", help="the concept; repeat for an ensemble of texts")
    explain.add_argument(
        "--concepts", help="instead of a target: a table of traits, a name in prompts/ or a file (.yaml, .txt)"
    )
    explain.add_argument(
        "--contrast", action="append", default=[], help="what it is told apart from; repeat for several"
    )
    explain.add_argument("--nearest", type=int, metavar="N", help="N contrasts: the most similar of --vocabulary")
    explain.add_argument("--preset", help="the paper's modes: baseline, finer-default (3 nearest), finer-compare (1)")
    _add_question_arguments(explain)
    explain.add_argument(
        "--output",
        type=Path,
        help="picture to write (IMAGE-finercam.png; with --json none); --concepts writes a .csv beside it",
    )
    explain.add_argument("--json", action="store_true", help="print everything as JSON instead of a summary")
    _add_model_arguments(explain)
    explain.set_defaults(run=_explain)

    generate = add_command("generate", "maps of a whole data set; stop it anywhere, and go on")
    generate.add_argument("dataset", nargs="?", type=Path, help="a folder, a list file, or a CSV of questions")
    generate.add_argument("--dataset_path", type=Path, help="the same")
    generate.add_argument("--output", "--save_path", type=Path, required=True, help="the run's folder")
    generate.add_argument("--split", help="only this part of the data set: train, test, ...")
    generate.add_argument("--target", help="one concept for all images, instead of each one's class")
    generate.add_argument("--contrast", action="append", help="what it is told apart from; repeat for several")
    generate.add_argument("--batch", type=int, default=16, help="images a forward pass (%(default)s)")
    _add_question_arguments(generate)
    _add_model_arguments(generate)
    generate.set_defaults(run=_generate)

    visualize = add_command("visualize", "pictures of a run: panels, contact sheets, a page that filters")
    visualize.add_argument("folder", nargs="?", type=Path, metavar="run", help="the folder that generate wrote")
    visualize.add_argument("--cams_path", type=Path, help="the same")
    visualize.add_argument("--output", "--save_path", type=Path, help="where to (RUN/pictures)")
    visualize.add_argument(
        "--dataset", "--dataset_path", type=Path, help="where the images lie now, if they were moved"
    )
    visualize.add_argument("--limit", type=int, help="only the first so many images")
    visualize.set_defaults(run=_visualize)

    dataset = add_command("dataset", "what is in a data set, what is missing, what cannot be read")
    dataset.add_argument("what", choices=["check"])
    dataset.add_argument("dataset", type=Path, help="a folder, a list file, or a CSV of questions")
    dataset.set_defaults(run=_dataset)

    methods = add_command("methods", "how maps can be made: sources, which towers, in Markdown")
    methods.set_defaults(run=_methods)

    models = add_command("models", "what can be loaded: family, pretrained tags")
    models.add_argument("--families", action="store_true", help="the table of families instead, in Markdown")
    models.add_argument("--json", action="store_true", help="print as JSON")
    models.set_defaults(run=_models)

    bench = add_command("bench", "time and memory of 1, 32 and 1,000 questions beside a bare forward pass")
    bench.add_argument("--runs", type=int, default=7, help="rounds to take the median of (%(default)s)")
    bench.add_argument("--batch", type=int, default=1, help="images at a time (%(default)s)")
    bench.add_argument(
        "--methods", action="append", metavar="METHOD", help="time methods instead: repeat for several, or 'all'"
    )
    bench.add_argument("--json", action="store_true", help="print as JSON")
    _add_model_arguments(bench)
    bench.set_defaults(run=_bench)

    evaluate = add_command("evaluate", "ask a world whose answers are known to the pixel")
    evaluate.add_argument(
        "what",
        choices=["aviary", "sanity"],
        help="aviary: how often the answers are right; sanity: whether the maps depend on what they should depend on",
    )
    evaluate.add_argument("--questions", type=int, help="held-out questions of each kind (aviary: 200, sanity: 50)")
    evaluate.add_argument("--seed", type=int, default=0, help="the first question's seed (%(default)s)")
    evaluate.add_argument("--kind", action="append", help="aviary: repeat for several (default: all)")
    evaluate.add_argument(
        "--method",
        "--methods",
        action="append",
        help="aviary: repeat for several, or 'all' (default: hirescam and gradcam)",
    )
    evaluate.add_argument("--objective", action="append", help="aviary: repeat for several (similarity and finer)")
    evaluate.add_argument("--json", action="store_true", help="print as JSON")
    _add_model_arguments(evaluate)
    evaluate.set_defaults(run=_evaluate)

    ui = add_command("ui", "a page in the browser: drop an image, ask, see")
    ui.add_argument("--host", default="127.0.0.1", help="who can reach it (%(default)s: this machine only)")
    ui.add_argument("--port", type=int, help="of the page (the first free one from 7860)")
    _add_model_arguments(ui)
    ui.set_defaults(run=_ui)
    return parser


def _add_question_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vocabulary", help="take contrasts from it: a name in prompts/, a text file or a folder by class"
    )
    parser.add_argument("--similar-by", help="how they are chosen: by 'logits' on the image, or as 'concepts'")
    parser.add_argument("--templates", help="ways to write a concept: a name in prompts/ or a text file")
    parser.add_argument("--background", help="further contrasts, of scenery: a name in prompts/ or a text file")
    parser.add_argument(
        "--method", default=Options.method, help="how the map is made (%(default)s; finercam-clip methods lists all)"
    )
    parser.add_argument("--refine", help="what follows the method: 'affinity', as CLIP-ES")
    parser.add_argument(
        "--layer", type=_layer, action="append", help="target layer: an index (-1 is the last) or a name; repeatable"
    )
    parser.add_argument("--objective", help=f"what is explained ({Options.objective})")
    parser.add_argument("--gamma", type=float, default=Options.gamma, help="comparison strength (%(default)s)")
    parser.add_argument("--pooling", help=f"'model', 'token', or 'mean' as CLIP-ES ({Options.pooling})")
    parser.add_argument(
        "--image-size", type=_image_size, help="of the model's input: 448, 448x672 (height x width) or 'native'"
    )


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="an open_clip architecture or hf-hub:org/repo (default: the bundled model)")
    parser.add_argument("--pretrained", help="its tag, a checkpoint file, or 'random'")
    parser.add_argument("--device", help="cuda, cpu, mps (default: CUDA where there is one)")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 (%(default)s)")
    parser.add_argument("--classifier", help="instead of a CLIP: 'photos', or a model of timm")
    parser.add_argument(
        "--head", "--classifier_path", help="its linear head, a file; without --classifier, on the paper's DINOv2"
    )
    parser.add_argument("--classes", help="the head's class names: a text file, or a folder of folders")


def _image_size(text: str) -> int | tuple[int, int] | str:
    if text == "native":
        return text
    height, *width = (int(side) for side in text.split("x"))
    return (height, width[0]) if width else height


def _layer(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _load(arguments: argparse.Namespace, classes: Any = None) -> Any:
    """The model that the arguments name. classes: the data set's, for a head that no --classes go with."""
    if arguments.classifier or arguments.head:
        if arguments.model:
            raise InputError("give --model (a CLIP) or --classifier and --head, not both")
        _say(f"loading {arguments.classifier or 'DINOv2'} …")
        from finercam_clip.models import load_classifier

        return load_classifier(
            arguments.classifier,
            arguments.head,
            arguments.classes or (classes if arguments.head and classes else None),
            pretrained=arguments.pretrained,
            device=arguments.device,
            precision=arguments.precision,
        )
    if arguments.classes:
        raise InputError("--classes are of a --classifier or a --head; for CLIP there is --vocabulary")
    _say(f"loading {arguments.model or 'the bundled model'} …")
    from finercam_clip.models import load

    return load(arguments.model, arguments.pretrained, device=arguments.device, precision=arguments.precision)


def _demo(arguments: argparse.Namespace) -> None:
    _say("loading the bundled model …")
    from finercam_clip.aviary.demo import demo

    lines = demo(arguments.output)
    _say("")
    print("\n".join(lines))


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, checked."""
    from finercam_clip.question import resolve_options

    asked = {name: getattr(arguments, name) for name in Options.__dataclass_fields__}
    asked["layer"] = None if arguments.layer is None else tuple(arguments.layer)
    options = {name: value for name, value in asked.items() if value is not None}
    resolve_options(options)
    return options


def _explain(arguments: argparse.Namespace) -> int | None:
    from finercam_clip.images import read_image
    from finercam_clip.render import check_output

    if arguments.concepts is not None:
        return _traits(arguments)
    if arguments.target is None:
        raise InputError("give a --target, or --concepts for a table of traits (see finercam-clip explain --help)")
    output = arguments.output
    if output is None and not arguments.json:
        output = Path(f"{arguments.image.stem}-finercam.png")
    if output is not None:
        check_output(output)
        if output.exists() and output.resolve() == arguments.image.resolve():
            raise InputError(f"--output {output} is the image itself, which is never overwritten")
    if sum((arguments.nearest is not None, bool(arguments.contrast), arguments.preset is not None)) > 1:
        raise InputError("give --contrast, --nearest or --preset, not both")
    image = read_image(arguments.image)
    contrasts = arguments.contrast if arguments.nearest is None else arguments.nearest
    options = _asked(arguments)
    if arguments.preset is not None:
        options |= preset(arguments.preset)
        contrasts = options.pop("contrasts")
    explanation = _load(arguments).explain(image, arguments.target, contrasts, **options)
    if output is not None:
        explanation.save(output)
    _say("")
    if arguments.json:
        print(explanation.to_json())
        return None
    for text, similarity in list(explanation.similarities.items())[:_SHOWN]:
        role = "target  " if text == explanation.target else "contrast"
        print(f"{role}  {explanation.score} {similarity:6.3f}  p {explanation.probabilities[text]:.3f}  {text}")
    if len(explanation.contrasts) >= _SHOWN:
        print(f"          and {len(explanation.contrasts) - _SHOWN + 1} contrasts more (--json lists all)")
    print(f"peak      {explanation.peak or 'none'}")
    if explanation.caution:
        print(f"caution   {explanation.caution}")
    print(f"picture   {output}")
    return None


def _traits(arguments: argparse.Namespace) -> int:
    from finercam_clip import traits
    from finercam_clip.datasets import open_dataset
    from finercam_clip.files import write_whole
    from finercam_clip.render import check_output, write_picture

    given = (arguments.target, arguments.contrast, arguments.nearest, arguments.preset, arguments.json)
    if any(given):
        raise InputError("--concepts brings its own targets and contrasts: leave the others and --json out")
    output = arguments.output or Path(f"{arguments.image.resolve().stem}-traits.png")
    if output.suffix.lower() == ".csv":  # the picture lies beside the table, under either name
        output = output.with_suffix(".png")
    check_output(output)
    if output.with_suffix(".csv").resolve() == arguments.image.resolve():
        raise InputError(f"--output {output}: its table would be {arguments.image}, the list itself; name another")
    asked = traits.read_traits(arguments.concepts)
    dataset, options = open_dataset(arguments.image), _asked(arguments)
    table = traits.trait_table(_load(arguments), dataset, asked, **options)
    if not table.rows:
        raise InputError(f"none of the {len(dataset.items)} images in {arguments.image} can be read")
    write_whole(output.with_suffix(".csv"), traits.to_csv(table).encode())
    write_picture(output, traits.picture(table))
    _say("")
    print(f"table     {output.with_suffix('.csv')}: {len(table.rows)} images, {len(asked)} traits")
    print(f"picture   {output}")
    return _listed("unreadable", table.unreadable)


def _listed(what: str, names: dict[str, str]) -> int:
    """Prints what was left out, a line each on stderr; the exit code that says so."""
    for why in names.values():
        print(f"finercam-clip: {what}: {' '.join(why.split())}", file=sys.stderr)
    return 1 if names else 0


def _generate(arguments: argparse.Namespace) -> int:
    from finercam_clip.datasets import open_dataset
    from finercam_clip.runs import generate

    source = arguments.dataset or arguments.dataset_path
    if source is None:
        raise InputError("which data set? name a folder, a list file or a CSV of questions")
    if arguments.batch < 1:
        raise InputError(f"--batch is a number from 1 up, not {arguments.batch}")
    if arguments.contrast and not arguments.target:
        raise InputError("--contrast goes with --target; without them each image is asked about its own class")
    dataset = open_dataset(source)
    chosen, options = dataset.split(arguments.split), _asked(arguments)
    explainer = _load(arguments, dataset.classes)
    _say("")
    found = generate(
        explainer,
        chosen,
        arguments.output,
        target=arguments.target,
        contrasts=arguments.contrast,
        batch=arguments.batch,
        **options,
    )
    done = found.images - len(found.unreadable)
    print(f"run       {arguments.output}: {done} of {found.images} images, {found.computed} computed now")
    return _listed("unreadable", found.unreadable)


def _visualize(arguments: argparse.Namespace) -> int:
    from finercam_clip.gallery import visualize

    run = arguments.folder or arguments.cams_path
    if run is None:
        raise InputError("which run? name the folder that finercam-clip generate wrote")
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit is a number from 1 up, not {arguments.limit}")
    found = visualize(run, arguments.output, dataset=arguments.dataset, limit=arguments.limit, progress=_say)
    _say("")
    print(f"panels    {found.panels} in {found.page.parent / 'panels'}")
    for sheet in found.sheets:
        print(f"sheet     {sheet}")
    print(f"page      {found.page}")
    return _listed("skipped", found.skipped)


def _dataset(arguments: argparse.Namespace) -> int:
    from finercam_clip.datasets import check, open_dataset

    report = check(open_dataset(arguments.dataset))
    _say("")
    print("\n".join(report.lines()))
    return 0 if report.complete else 1


def _methods(arguments: argparse.Namespace) -> None:
    from finercam_clip.methods import methods_table

    print(methods_table())


def _models(arguments: argparse.Namespace) -> None:
    from finercam_clip.models.catalogue import families_table, list_models

    if arguments.families:
        print(families_table())
        return
    rows = list_models()
    if arguments.json:
        print(json.dumps([vars(row) for row in rows]))
        return
    width = max(len(row.name) for row in rows)
    print(f"{'MODEL':{width}}  {'FAMILY':12}  WEIGHTS")
    for row in rows:
        print(f"{row.name:{width}}  {row.family or 'not yet':12}  {', '.join(row.weights) or 'random only'}")
    print("\nand hf-hub:org/repo for any open_clip model on the hub, or a local checkpoint file as --pretrained;")
    print("in place of --model a --classifier: 'photos', or any vision transformer or convolutional network of timm")


def _bench(arguments: argparse.Namespace) -> None:
    from finercam_clip.bench import bench, bench_methods, format_table

    if arguments.runs < 1:
        raise InputError(f"--runs is a number from 1 up, not {arguments.runs}")
    if arguments.batch < 1 or (arguments.methods and arguments.batch > 1):
        raise InputError(f"--batch is a number from 1 up, and 1 with --methods, not {arguments.batch}")
    if arguments.methods:
        named = () if "all" in arguments.methods else arguments.methods
        rows = bench_methods(_load(arguments), named, runs=arguments.runs)
    else:
        rows = bench(_load(arguments), runs=arguments.runs, batch=arguments.batch)
    _say("")
    if arguments.json:  # JSON knows no NaN
        known = [{k: None if v != v else v for k, v in vars(row).items()} for row in rows]
        print(json.dumps(known))
    else:
        print(format_table(rows))


def _evaluate(arguments: argparse.Namespace) -> None:
    from finercam_clip.aviary import benchmark, questions, sanity
    from finercam_clip.methods import METHODS
    from finercam_clip.options import PRESETS

    asked = {"seed": arguments.seed}
    if arguments.questions is not None:
        asked["questions"] = arguments.questions
    explainer = _load(arguments)
    if arguments.what == "sanity":
        checks = sanity.check_sanity(explainer, **asked)
        rows, table = [vars(check) | {"passed": check.passed} for check in checks], sanity.format_table(checks)
    else:
        found = benchmark.evaluate(
            explainer,
            kinds=arguments.kind or list(questions.KINDS),
            methods=[*METHODS, *PRESETS] if "all" in (arguments.method or []) else arguments.method or _EVALUATED,
            objectives=arguments.objective or ["similarity", "finer"],
            **asked,
        )
        rows, table = [vars(row) for row in found], benchmark.format_table(found)
    _say("")
    print(json.dumps(rows) if arguments.json else table)


def _ui(arguments: argparse.Namespace) -> None:
    from finercam_clip.ui import check_installed, serve

    check_installed()
    explainer = _load(arguments)
    _say("")
    serve(explainer, arguments.host, arguments.port)


def _say(line: str) -> None:
    """Progress, for a person at a terminal only: each line takes the place of the last."""
    if sys.stderr.isatty() and not os.environ.get(progress.SWITCH):
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"finercam-clip: warning: {message}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Returns 0; 1 after a run that had to leave something out, a line each on stderr; or 2 after one
    line on stderr about what the user can mend."""
    options = build_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter shows "?"
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if options.quiet:
        os.environ[progress.SWITCH] = "1"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.showwarning = _show_warning
        try:
            return options.run(options) or 0
        except InputError as error:
            _say("")
            print(f"finercam-clip: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("finercam-clip: stopped", file=sys.stderr)
            return 130
        except BrokenPipeError:
            sys.stderr.close()
            return 1
