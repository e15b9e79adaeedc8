"""A system of one's own from parts of the library: SASRec's model and task with another loss, tuned in two stages."""

from __future__ import annotations

import lmrs
from lmrs import losses, models, objectives, tasks, tuning, views
from lmrs.negatives import ByPopularity


def two_stage(*, dim: int = 16, epochs: int = 2) -> lmrs.System:
    """First everything learns from the exact softmax, then the blocks alone from negatives drawn by popularity."""
    sequence = views.ItemSequence(max_len=20)
    budget = lmrs.Budget(epochs=epochs, batch_size=64)
    sampled = losses.SampledSoftmax(ByPopularity(k=16, alpha=0.5, shared=True))
    return lmrs.System(
        paper=lmrs.Paper("An example", "nobody", 2025),
        model=models.Transformer(dim=dim, layers=1, heads=2, max_len=20),
        stages=(
            lmrs.Stage("learn", sequence, objectives.NextItem(), tuning.Everything(), budget),
            lmrs.Stage("adapt", sequence, objectives.NextItem(sampled), tuning.Part(("blocks.*",)), budget),
        ),
        task=tasks.Ranking(sequence),
    )


def main() -> None:
    split = lmrs.leave_one_out(lmrs.load("synthetic:users=200,items=40"))
    system = two_stage()
    fitted = lmrs.fit(system, split)
    print("strategy:", lmrs.cell(system))
    print("moved in each stage:", [stage["parameters_moved"] for stage in fitted.moved])
    print(lmrs.evaluate(fitted, split, measures=["NDCG@10"]).measures)


if __name__ == "__main__":
    main()
