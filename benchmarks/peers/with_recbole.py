"""RecBole: its SASRec with cross-entropy; one row for every prefix of a history, as its sequential data set makes them."""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from clock import Laps, ndcg, result, task, users  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

torch.set_num_threads(1)
ASKED = task()
LAPS = Laps(ASKED.get("warm", 1))
MODEL = "BERT4Rec" if ASKED.get("system") == "bert4rec" else "SASRec"


class Some:
    """The first batches of a loader, with the time at which each was asked for."""

    def __init__(self, loader, steps):
        self.loader, self.steps = loader, steps

    def __iter__(self):
        did = 0
        for number, batch in enumerate(self.loader):
            LAPS.mark(did)
            if number == self.steps:
                return
            did = len(batch)
            yield batch


def first(loader, users):
    """The loader, giving the first batches alone; RecBole asks of what class it is."""

    class First(type(loader)):
        def __iter__(self):
            self.seen = 0
            for batch in super().__iter__():
                if self.seen >= users:
                    return
                self.seen += len(batch[0])
                yield batch

    loader.__class__ = First
    return loader


def prepared(folder, most=None):
    """(config, data set, loaders): an atomic file of the whole histories, left out by RecBole itself."""
    data = np.load(ASKED["data"])
    items, start, stop = users(data)
    start, stop = start[:most], stop[:most] + 2
    place = Path(folder) / "here"
    place.mkdir()
    with (place / "here.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, (a, b) in enumerate(zip(start, stop)):
            file.writelines(f"u{user}\ti{items[at]}\t{at - a}\n" for at in range(a, b))
    settings = {
        "data_path": str(folder), "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "use_gpu": False,
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp", "show_progress": False,
        "MAX_ITEM_LIST_LENGTH": ASKED["max_len"], "train_neg_sample_args": None, "train_batch_size": ASKED.get("batch", 128),
        "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
        "n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 64, "hidden_dropout_prob": 0.2, "hidden_act": "relu",
        "attn_dropout_prob": 0.2, "loss_type": "CE", "learning_rate": 1e-3, "checkpoint_dir": str(folder), "eval_batch_size": 256,
        "topk": [10], "metrics": ["NDCG"], "valid_metric": "NDCG@10", "log_wandb": False, "state": "ERROR",
    }  # fmt: skip
    config = Config(model=MODEL, dataset="here", config_dict=settings)
    init_seed(0, True)
    dataset = create_dataset(config)
    return config, dataset, data_preparation(config, dataset)


def prepare():
    """From an atomic file to numbered events: what RecBole does before it makes its rows."""
    settings = {
        "data_path": ASKED["path"], "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}, "use_gpu": False,
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp", "state": "ERROR", "log_wandb": False,
        "train_neg_sample_args": None,
    }  # fmt: skip
    begin = time.process_time(), time.perf_counter()
    dataset = create_dataset(Config(model="SASRec", dataset="here", config_dict=settings))
    cpu, wall = time.process_time() - begin[0], time.perf_counter() - begin[1]
    counts = [dataset.user_num - 1, dataset.item_num - 1, len(dataset)]
    result({"cpu_seconds": cpu, "wall_seconds": wall, "counts": counts}, "recbole", "pandas", "numpy")


def train():
    with tempfile.TemporaryDirectory() as folder:
        config, _, (loader, _, _) = prepared(folder, ASKED.get("most"))
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, get_model("SASRec")(config, loader._dataset))
        trainer._train_epoch(Some(loader, ASKED["steps"] + ASKED["warm"]), 0)
        result({**LAPS.found(), "rows": len(loader._dataset)}, "recbole", "torch", "numpy")


def learn():
    """Validation NDCG@10 over training time: the event after the training part, unseen items ranked."""
    data = np.load(ASKED["data"])
    items, start, stop = users(data)
    with tempfile.TemporaryDirectory() as folder:
        config, dataset, (loader, valid, _) = prepared(folder)
        model = get_model(config["model"])(config, loader._dataset)
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        known = dataset.token2id("item_id", np.array([f"i{item}" for item in np.unique(items)]))
        number = dict(zip(np.unique(items).tolist(), known.tolist()))
        spent, curve = 0.0, []
        for epoch in range(ASKED["epochs"]):
            begin = time.process_time()
            trainer._train_epoch(loader, epoch)
            spent += time.process_time() - begin
            if (epoch + 1) % ASKED["every"]:
                continue
            lists, truth = [], []
            model.eval()
            with torch.no_grad():
                for interaction, *_ in valid:
                    scores = model.full_sort_predict(interaction)
                    scores[:, 0] = -torch.inf
                    who = [int(name[1:]) for name in dataset.id2token("user_id", interaction["user_id"])]
                    for row, user in enumerate(who):
                        scores[row, [number[item] for item in items[start[user] : stop[user]].tolist()]] = -torch.inf
                    lists += scores.topk(10).indices.tolist()
                    truth += [number[int(items[stop[user]])] for user in who]
            model.train()
            curve.append([spent, ndcg(lists, truth)])
    result({"curve": curve}, "recbole", "torch", "numpy")


def evaluate():
    with tempfile.TemporaryDirectory() as folder:
        config, _, (loader, valid, _) = prepared(folder)  # all users, so that the catalogue is that of the others
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, get_model("SASRec")(config, loader._dataset))
        valid, laps = first(valid, ASKED["users"]), Laps(1)
        laps.mark()
        for _ in range(ASKED["rounds"] + 1):
            trainer.evaluate(valid, load_best_model=False)
            laps.mark(valid.seen)
        result({**laps.found(), "note": "seen items are left in"}, "recbole", "torch", "numpy")


if __name__ == "__main__":
    {"train": train, "learn": learn, "evaluate": evaluate, "prepare": prepare}[ASKED["task"]]()
