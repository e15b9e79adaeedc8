"""RecTools, asked as its documentation says: SASRecModel.fit and .recommend."""

from __future__ import annotations

import copy
import logging
import time
import warnings

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from clock import Laps, histories, ndcg, result, task, users  # noqa: E402
from pytorch_lightning import Callback, Trainer  # noqa: E402
from rectools.dataset import Dataset  # noqa: E402
from rectools.models import BERT4RecModel, SASRecModel  # noqa: E402

torch.set_num_threads(1)
ASKED = task()
LAPS = Laps(ASKED.get("warm", 1))


class Watch(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        LAPS.mark(int((batch["y"] != 0).sum()))


def trainer():
    return Trainer(
        max_steps=ASKED["steps"] + ASKED["warm"] + 1,
        max_epochs=1000,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Watch()],
    )


def interactions(data, everything=False):
    items, start, stop = users(data)
    stop = stop + (1 if everything else 0)
    who = np.repeat(np.arange(len(start)), stop - start)
    at = np.concatenate([np.arange(a, b) for a, b in zip(start, stop)])
    frame = {"user_id": who, "item_id": items[at], "weight": 1, "datetime": pd.to_datetime(at, unit="s")}
    return Dataset.construct(pd.DataFrame(frame))


def model(loss="softmax"):
    return SASRecModel(
        n_blocks=2, n_heads=2, n_factors=64, dropout_rate=0.2, session_max_len=ASKED["max_len"], loss=loss,
        n_negatives=ASKED.get("negatives", 1), lr=1e-3, batch_size=ASKED.get("batch", 128), get_trainer_func=trainer,
        recommend_torch_device="cpu",
    )  # fmt: skip


def train():
    asked = model(ASKED.get("loss", "softmax"))
    asked.fit(interactions(np.load(ASKED["data"])))
    result(LAPS.found(), "rectools", "torch", "numpy")


KEPT = []  # RecTools copies the trainer and what it calls back: what is kept lies outside


class Snapshots(Callback):
    """The weights at the end of every so many epochs, and the processor seconds of training until then."""

    def __init__(self):
        self.out, self.begun = 0.0, None

    def on_train_start(self, trainer, module):
        self.begun = time.process_time()

    def on_train_epoch_end(self, trainer, module):
        if (trainer.current_epoch + 1) % ASKED["every"] == 0:
            now = time.process_time()
            KEPT.append((now - self.begun - self.out, copy.deepcopy(module.torch_model.state_dict())))
            self.out += time.process_time() - now


def learn():
    """Validation NDCG@10 over training time: the event after the training part, unseen items ranked."""
    data = np.load(ASKED["data"])
    items, start, stop = users(data)
    dataset = interactions(data)

    def longer():
        return Trainer(
            max_epochs=ASKED["epochs"], accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[Snapshots()],
        )  # fmt: skip

    options = {
        "n_blocks": 2, "n_heads": 2, "n_factors": 64, "dropout_rate": 0.2, "session_max_len": ASKED["max_len"], "lr": 1e-3,
        "loss": ASKED["loss"], "n_negatives": ASKED.get("negatives", 1), "batch_size": ASKED["batch"], "get_trainer_func": longer,
        "recommend_torch_device": "cpu",
    }  # fmt: skip
    torch.manual_seed(0)
    asked = BERT4RecModel(**options, mask_prob=0.4) if ASKED["system"] == "bert4rec" else SASRecModel(**options)
    asked.fit(dataset)
    who, curve = np.arange(len(start)), []
    for seconds, weights in KEPT:
        asked.lightning_model.torch_model.load_state_dict(weights)
        found = asked.recommend(users=who, dataset=dataset, k=10, filter_viewed=True)
        lists = found.sort_values(["user_id", "rank"]).groupby("user_id")["item_id"].apply(list)
        curve.append([seconds, ndcg([lists.get(user, []) for user in who], items[stop])])
    result({"curve": curve}, "rectools", "torch", "numpy")


def evaluate():
    """The ten best unseen items of every user, history up to the last event but one."""
    data = np.load(ASKED["data"])
    dataset = interactions(data, everything=True)
    asked = model("softmax" if int(data["n_items"]) < 20_000 else "BCE")  # its softmax holds rows x length x items scores
    asked.fit(dataset)
    who = np.arange(len(data["offsets"]) - 1)[: ASKED["users"]]
    laps = Laps(1)
    laps.mark()
    for _ in range(ASKED["rounds"] + 1):
        asked.recommend(users=who, dataset=dataset, k=10, filter_viewed=True)
        laps.mark(len(who))
    result(laps.found(), "rectools", "torch", "numpy")


def bare(given):
    """A data set of histories alone."""
    who = np.repeat(np.arange(len(given)), [len(history) for history in given])
    flat = np.concatenate(given)
    when = pd.to_datetime(np.arange(len(flat)), unit="s")
    return Dataset.construct(pd.DataFrame({"user_id": who, "item_id": flat, "weight": 1, "datetime": when}))


def save():
    items = np.arange(ASKED["items"]).reshape(-1, 50)  # every item once, so that the model knows it
    asked = model()
    asked.fit(bare(list(items)))
    asked.save(ASKED["folder"] + ".model")
    result({}, "rectools")


def serve():
    asked = SASRecModel.load(ASKED["folder"] + ".model")

    def answer(some):
        return asked.recommend(users=np.arange(len(some)), dataset=bare(some), k=10, filter_viewed=True)

    assert len(answer(histories(ASKED["items"], 1))) == 10
    cold = time.process_time()
    given = histories(ASKED["items"], 1024)
    each = []
    for history in given[1 : ASKED["warm"] + 1]:
        begin = time.process_time()
        answer([history])
        each.append(time.process_time() - begin)
    begin = time.process_time()
    answer(given)
    rate = len(given) / (time.process_time() - begin)
    result({"cold": cold, "warm": sorted(each), "batch": rate}, "rectools", "torch", "numpy")


def loss():
    """Forward and backward of its sampled softmax alone, negatives drawn before; and its loss with given, shared negatives."""
    from rectools.models.nn.transformers.lightning import TransformerLightningModule
    from rectools.models.nn.transformers.negative_sampler import CatalogUniformSampler
    from rectools.models.nn.transformers.similarity import DistanceSimilarityModule

    data = np.load(ASKED["data"])
    targets = torch.from_numpy(data["target"]) + 1  # 0 is padding
    states = torch.from_numpy(data["states"]).requires_grad_()
    table = torch.cat([torch.zeros(1, states.shape[2]), torch.from_numpy(data["table"])]).requires_grad_()
    scores, weights = DistanceSimilarityModule(), (targets > 0).float()

    def run(negatives):
        states.grad = table.grad = None
        logits = scores(states, table, torch.cat([targets.unsqueeze(-1), negatives], dim=-1))
        cost = TransformerLightningModule._calc_sampled_softmax_loss(TransformerLightningModule, logits, targets, weights)
        cost.backward()
        return float(cost)

    drawn = CatalogUniformSampler(len(data["negatives"])).get_negatives({"x": targets}, lowest_id=1, highest_id=len(table))
    seconds = []
    for _ in range(ASKED["steps"] + 1):
        begin = time.process_time()
        run(drawn)
        seconds.append(time.process_time() - begin)
    shared = (torch.from_numpy(data["no_targets"]) + 1).expand(*targets.shape, -1)
    result({"cpu_seconds": float(np.median(seconds[1:])), "loss": run(shared)}, "rectools", "torch", "numpy")


if __name__ == "__main__":
    {"train": train, "learn": learn, "evaluate": evaluate, "save": save, "serve": serve, "loss": loss}[ASKED["task"]]()
