"""`sdvar-exp quality`: how good each cell's images are as a set, in the features of a network."""

from __future__ import annotations

import json

from sdvar_exp.cli.options import Parser, say_json
from sdvar_exp.cli.studies import study_of, study_parser
from sdvar_exp.errors import UserError
from sdvar_exp.guest import expand, kept_random_state, own_torch

ABOUT = """Class accuracy, and Fréchet and kernel distance, precision and recall of each cell's images: to real data, and to
the baseline's images of the same units. For the shipped pairs the features were kept while decoding. For other models, or
another network, --extractor looks at the kept images (`images=all`). Writes tables/quality.csv and .parquet, with
--extractor tables/quality-NAME.csv and .parquet."""
EXAMPLE = """example: sdvar-exp quality var_50k --extractor inception --real imagenet/val"""


def parser() -> Parser:
    known = study_parser("quality", ABOUT, epilog=EXAMPLE)
    known.add_argument(
        "--extractor",
        metavar="NAME",
        help="look at the kept images with: classifier (that of the study's shipped pair), "
        "inception (torch-fidelity's), the safetensors file of one that part=classifier trained, or package.module:function",
        source=lambda _: ["classifier", "inception"],
    )
    known.add_argument(
        "--real",
        metavar="PATH",
        type=expand,
        help="real images for --extractor: a folder of PNG or JPEG "
        "files, or an npz with arr_0; default: the pair's test set for its classifier, else none",
    )
    return known


def main(argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    folder = study_of(asked)
    if asked.real and not asked.extractor:
        raise UserError("--real needs --extractor: classifier, inception, a file or package.module:function")
    from sdvar_exp.report.quality import Real, render_quality, shipped_real, write_quality

    name = "quality"
    if asked.extractor:
        with own_torch():
            from sdvar_exp.runner.measuring.extractors import features_of, features_of_study, network, real_images

            with kept_random_state():
                looker = network(asked.extractor, folder)
            name = f"quality-{looker.name.replace(':', '.')}"
            images = real_images(asked.real) if asked.real else None
            found = features_of_study(folder, looker)
            if not found:
                raise UserError(f"{folder} keeps no images of a cell and its baseline: run it with images=all")
            real = shipped_real(looker.digest)
            if images is not None:
                real = Real(features_of(looker.run, images)[0], None, looker.digest)
        table = write_quality(folder, found, real, name)
    else:
        table = write_quality(folder)
        if table.empty:
            raise UserError(
                "no image of this study has features: they are kept for the shipped pairs; for other models "
                "`sdvar-exp quality STUDY --extractor inception` looks at the kept images"
            )
    if asked.json:
        say_json(json.loads(table.to_json(orient="records")))
    else:
        print(render_quality(table))
        print(f"\ntable    {folder / 'tables' / name}.csv")
    return 0
