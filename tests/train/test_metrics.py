"""metrics.csv: every row at once, no row twice after a resume."""

from pathlib import Path

from odenets.train.metrics import MetricsLog, read_rows


def test_rows_may_differ_and_a_resume_drops_what_the_checkpoint_does_not_know(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    log = MetricsLog(path)
    log.append({"epoch": 1, "step": 10, "train_loss": 0.5})
    log.append({"epoch": 2, "step": 20, "train_loss": 0.25, "test_accuracy": 0.75})
    log.append({"epoch": 3, "step": 30, "train_loss": 0.125})
    assert path.read_text().splitlines() == [
        "epoch,step,train_loss,test_accuracy", "1,10,0.5,", "2,20,0.25,0.75", "3,30,0.125,",
    ]  # fmt: skip
    resumed = MetricsLog(path, keep_until_step=20)
    resumed.append({"epoch": 3, "step": 30, "train_loss": 0.0625})
    assert [row["train_loss"] for row in read_rows(path)] == [0.5, 0.25, 0.0625]
