"""`focalnets predict`."""

import csv
import sys

from focalnets.commands.shards import merge, print_result, shard_options
from focalnets.commands.words import preset_and_images
from focalnets.data.find import describe_unreadable, find_images, report_skipped
from focalnets.names import csv_cell, json_text, printable
from focalnets.prediction.predictor import Predictor
from focalnets.presets.checkpoints import DEFAULT


def run(arguments):
    """Print the most probable classes of each image, or write those of the shards of a manifest."""
    if arguments.manifest is not None:
        _run_shards(arguments)
        return
    preset, images = preset_and_images(arguments.preset, arguments.images)
    predictor = Predictor(preset, engine=_engine(arguments))
    files = find_images(images)
    predictions, unreadable = predictor.predict_files(files, top=arguments.top)
    _print(predictions, arguments)
    if unreadable and arguments.on_bad_image == "error":
        raise ValueError(describe_unreadable(unreadable))
    report_skipped(unreadable)


def _run_shards(arguments):
    from focalnets.prediction.bulk import predict_shards

    if arguments.merge is not None:
        merge(arguments)
        return
    result = predict_shards(arguments.preset or DEFAULT, top=arguments.top, **shard_options(arguments))
    print_result(result, arguments.out)


def _print(predictions, arguments):
    if arguments.as_json:
        rows = [
            {
                "image": prediction.name,
                "classes": [
                    {"name": name, "probability": probability}
                    for name, probability in zip(prediction.classes, prediction.probabilities, strict=True)
                ],
            }
            for prediction in predictions
        ]
        print(json_text(rows))
    elif arguments.as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("image", "rank", "class", "probability"))
        for prediction in predictions:
            ranked = zip(prediction.classes, prediction.probabilities, strict=True)
            for rank, (name, probability) in enumerate(ranked, start=1):
                writer.writerow((csv_cell(prediction.name), rank, csv_cell(name), f"{probability:.6f}"))
    else:
        names = [printable(prediction.name) for prediction in predictions]
        width = max(map(len, names), default=0)
        for image, prediction in zip(names, predictions, strict=True):
            print(f"{image:<{width}}  {prediction.in_words()}")


def _engine(arguments):
    return arguments.engine if arguments.backend is None else "keras"
