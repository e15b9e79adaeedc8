"""RePlay, asked as its documentation says: replay.nn SasRec on a ParquetModule, replay.models.nn Bert4Rec; Lightning trains."""

from __future__ import annotations

import copy
import logging
import tempfile
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

import lightning  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from clock import Laps, ndcg, result, task, users  # noqa: E402
from replay.data import FeatureHint, FeatureSource, FeatureType  # noqa: E402
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema  # noqa: E402
from replay.nn.lightning import LightningModule  # noqa: E402
from replay.nn.lightning.callback import TorchTopItemsCallback  # noqa: E402
from replay.nn.lightning.postprocessor import SeenItemsFilter  # noqa: E402
from replay.nn.sequential import SasRec  # noqa: E402
from replay.nn.transform.template import make_default_sasrec_transforms  # noqa: E402

torch.set_num_threads(1)
ASKED = task()
LAPS = Laps(ASKED.get("warm", 1))


class Watch(lightning.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        LAPS.mark(int(batch["target_padding_mask"].sum()))


def schema(items, padding=None):
    """One sequence of item numbers; padded places hold `padding`, by default a number of their own."""
    return TensorSchema(
        TensorFeatureInfo(
            "item_id",
            is_seq=True,
            feature_type=FeatureType.CATEGORICAL,
            embedding_dim=64,
            padding_value=items if padding is None else padding,
            cardinality=items,
            feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
        )
    )


def trainer(*callbacks):
    return lightning.Trainer(
        max_steps=ASKED["steps"] + ASKED["warm"] + 1,
        max_epochs=1000,
        accelerator="cpu",
        precision=ASKED.get("precision", "32-true"),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        limit_val_batches=0,
    )


def network(about):
    return SasRec.from_params(
        about, embedding_dim=64, num_heads=2, num_blocks=2, max_sequence_length=ASKED["max_len"], dropout=0.2
    )


def train():
    data = np.load(ASKED["data"])
    items, start, stop = users(data)
    rows = [items[max(a, b - ASKED["max_len"] - 1) : b] for a, b in zip(start, stop)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.parquet"
        pq.write_table(pa.table({"item_id": pa.array(rows, pa.list_(pa.int64()))}), path)
        count = int(data["n_items"])
        about = schema(count)
        module = ParquetModule(
            batch_size=ASKED.get("batch", 128),
            metadata={"train": {"item_id": {"shape": ASKED["max_len"] + 1, "padding": count}}},
            transforms=make_default_sasrec_transforms(about),
            train_path=str(path),
        )
        trainer(Watch()).fit(LightningModule(network(about)), datamodule=module)
    result(LAPS.found(), "replay-rec", "torch", "numpy", "lightning")


class Snapshots(lightning.Callback):
    """The weights at the end of every so many epochs, and the processor seconds of training until then."""

    def __init__(self):
        self.kept, self.out, self.begun = [], 0.0, None

    def on_train_start(self, trainer, module):
        self.begun = time.process_time()

    def on_train_epoch_end(self, trainer, module):
        if (trainer.current_epoch + 1) % ASKED["every"] == 0:
            now = time.process_time()
            self.kept.append((now - self.begun - self.out, copy.deepcopy(module.state_dict())))
            self.out += time.process_time() - now


QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def learn():
    """Validation NDCG@10 over training time: the event after the training part, unseen items ranked."""
    if ASKED["system"] == "bert4rec":
        learn_bert4rec()
        return
    data = np.load(ASKED["data"])
    items, start, stop = users(data)
    count, longest = int(data["n_items"]), ASKED["max_len"]
    with tempfile.TemporaryDirectory() as folder:
        fitted, asking = Path(folder) / "train.parquet", Path(folder) / "asked.parquet"
        rows = [items[max(a, b - longest - 1) : b] for a, b in zip(start, stop)]
        pq.write_table(pa.table({"item_id": pa.array(rows, pa.list_(pa.int64()))}), fitted)
        columns = {"query_id": pa.array(np.arange(len(start)))}
        columns["item_id"] = pa.array([items[max(a, b - longest) : b] for a, b in zip(start, stop)], pa.list_(pa.int64()))
        columns["seen_ids"] = pa.array([items[a:b] for a, b in zip(start, stop)], pa.list_(pa.int64()))
        pq.write_table(pa.table(columns), asking)
        about = schema(count)
        module = ParquetModule(
            batch_size=ASKED["batch"],
            metadata={
                "train": {"item_id": {"shape": longest + 1, "padding": count}},
                "predict": {
                    "query_id": {},
                    "item_id": {"shape": longest, "padding": count},
                    "seen_ids": {"shape": int((stop - start).max()), "padding": count},
                },
            },
            transforms=make_default_sasrec_transforms(about),
            train_path=str(fitted),
            predict_path=str(asking),
        )
        torch.manual_seed(0)
        snapshots, asked = Snapshots(), LightningModule(network(about))
        longer = lightning.Trainer(
            max_epochs=ASKED["epochs"], accelerator="cpu", callbacks=[snapshots], limit_val_batches=0, **QUIET
        )
        longer.fit(asked, datamodule=module)
        curve = []
        for seconds, weights in snapshots.kept:
            asked.load_state_dict(weights)
            best = TorchTopItemsCallback(top_k=10, query_column="query_id", postprocessors=[SeenItemsFilter(item_count=count)])
            lightning.Trainer(accelerator="cpu", callbacks=[best], **QUIET).predict(
                asked.eval(), datamodule=module, return_predictions=False
            )
            who, lists, _ = best.get_result()
            curve.append([seconds, ndcg(lists.tolist(), items[stop][who.numpy()].tolist())])
    result({"curve": curve}, "replay-rec", "torch", "numpy", "lightning")


def learn_bert4rec():
    """The same of its BERT4Rec: the last max_len events of a user, 15 % of them hidden at random, its own output layer."""
    import pandas as pd
    from replay.data.nn import PandasSequentialDataset
    from replay.models.nn.sequential import Bert4Rec
    from replay.models.nn.sequential.bert4rec import Bert4RecPredictionDataset, Bert4RecTrainingDataset
    from replay.models.nn.sequential.callbacks import TorchPredictionCallback
    from replay.models.nn.sequential.postprocessors import RemoveSeenItems
    from torch.utils.data import DataLoader

    data = np.load(ASKED["data"])
    items, start, stop = users(data)
    about = schema(int(data["n_items"]), padding=0)  # its item table has no row for padding, which attention leaves out
    frame = pd.DataFrame({"query_id": np.arange(len(start)), "item_id": [items[a:b] for a, b in zip(start, stop)]})
    sequences = PandasSequentialDataset(about, "query_id", "item_id", frame)
    torch.manual_seed(0)
    snapshots = Snapshots()
    asked = Bert4Rec(
        about, block_count=2, head_count=2, hidden_size=64, max_seq_len=ASKED["max_len"], dropout_rate=0.2
    )  # by default Adam, 1e-3
    fitted = DataLoader(Bert4RecTrainingDataset(sequences, ASKED["max_len"]), batch_size=ASKED["batch"], shuffle=True)
    lightning.Trainer(max_epochs=ASKED["epochs"], accelerator="cpu", callbacks=[snapshots], **QUIET).fit(asked, fitted)
    asking = DataLoader(Bert4RecPredictionDataset(sequences, ASKED["max_len"]), batch_size=256)
    curve = []
    for seconds, weights in snapshots.kept:
        asked.load_state_dict(weights)
        best = TorchPredictionCallback(top_k=10, postprocessors=[RemoveSeenItems(sequences)])
        lightning.Trainer(accelerator="cpu", callbacks=[best], **QUIET).predict(asked.eval(), asking, return_predictions=False)
        who, lists, _ = best.get_result()
        curve.append([seconds, ndcg(lists.tolist(), items[stop][who.numpy()].tolist())])
    result({"curve": curve}, "replay-rec", "torch", "numpy", "lightning")


def evaluate():
    """The ten best unseen items of every user, history up to the last event but one."""
    data = np.load(ASKED["data"])
    items, start, stop = (each if n == 0 else each[: ASKED["users"]] for n, each in enumerate(users(data)))
    count, most = int(data["n_items"]), int((stop - start).max())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "asked.parquet"
        short = [items[max(a, b - ASKED["max_len"]) : b] for a, b in zip(start, stop)]
        whole = [items[a:b] for a, b in zip(start, stop)]
        columns = {"query_id": pa.array(np.arange(len(start)))}
        columns |= {"item_id": pa.array(short, pa.list_(pa.int64())), "seen_ids": pa.array(whole, pa.list_(pa.int64()))}
        pq.write_table(pa.table(columns), path)
        about = schema(count)
        module = ParquetModule(
            batch_size=256,
            metadata={
                "predict": {
                    "query_id": {},
                    "item_id": {"shape": ASKED["max_len"], "padding": count},
                    "seen_ids": {"shape": most, "padding": count},
                }
            },
            transforms=make_default_sasrec_transforms(about),
            predict_path=str(path),
        )
        asked = LightningModule(network(about)).eval()
        laps = Laps(1)
        laps.mark()
        for _ in range(ASKED["rounds"] + 1):
            best = TorchTopItemsCallback(top_k=10, query_column="query_id", postprocessors=[SeenItemsFilter(item_count=count)])
            trainer(best).predict(asked, datamodule=module, return_predictions=False)
            laps.mark(len(best.get_result()[0]))
    result(laps.found(), "replay-rec", "torch", "numpy", "lightning")


def prepare():
    """From a file to sequences of numbers in memory."""
    import polars as pl
    from replay.data import Dataset, FeatureInfo, FeatureSchema
    from replay.data.nn import SequenceTokenizer

    begin = time.process_time(), time.perf_counter()
    frame = pl.read_parquet(ASKED["path"]) if ASKED["path"].endswith("parquet") else pl.read_csv(ASKED["path"])
    kinds = {"user_id": FeatureHint.QUERY_ID, "item_id": FeatureHint.ITEM_ID, "timestamp": FeatureHint.TIMESTAMP}
    told = [
        FeatureInfo(name, FeatureType.NUMERICAL if name == "timestamp" else FeatureType.CATEGORICAL, hint)
        for name, hint in kinds.items()
    ]
    dataset = Dataset(feature_schema=FeatureSchema(told), interactions=frame.select(list(kinds)))
    about = TensorSchema(
        TensorFeatureInfo(
            "item_id",
            is_seq=True,
            feature_type=FeatureType.CATEGORICAL,
            feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
        )
    )
    tokenizer = SequenceTokenizer(about)
    made = tokenizer.fit_transform(dataset)
    cpu, wall = time.process_time() - begin[0], time.perf_counter() - begin[1]
    counts = [len(made), len(tokenizer.item_id_encoder.mapping["item_id"]), len(frame)]
    result({"cpu_seconds": cpu, "wall_seconds": wall, "counts": counts}, "replay-rec", "polars", "numpy")


if __name__ == "__main__":
    {"train": train, "learn": learn, "evaluate": evaluate, "prepare": prepare}[ASKED["task"]]()
