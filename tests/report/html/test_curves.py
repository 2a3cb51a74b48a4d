from __future__ import annotations

from stored import run_spec, store

from fairbench.report.html.curves import curves


def _runs(root, histories):
    runs = []
    for seed, rows in histories.items():
        folder = store(root, run_spec("sat", seed))
        if rows:
            folder.write_history(rows)
        runs.append((folder, folder.read()))
    return runs


def _row(epoch, average, worst, *weights):
    return {"epoch": epoch, "loss": 1.0, "average": average, "worst": worst} | {
        f"weight[{c}]": weight for c, weight in enumerate(weights)
    }


def test_every_seed_has_its_curves_and_all_share_their_scales(tmp_path):
    histories = {
        0: [_row(0, 0.1, 0.0, 1.0, 1.0), _row(1, 0.2, 0.1, 1.5, 0.5)],
        1: [_row(0, 0.4, 0.2, 1.0, 1.0), _row(1, 0.5, 0.4, 4.0, 1.0)],
        2: [],
        3: [_row(0, 0.5, 0.5, 1.0, 1.0)],  # one epoch is no curve
    }
    found = curves(_runs(tmp_path, histories))
    assert [one["seed"] for one in found] == ["0", "1"]
    assert [chart["title"] for chart in found[0]["charts"]] == ["held-out robust accuracy", "weight by class"]
    ranges = [[(chart["sizes"][0].y.low, chart["sizes"][0].y.high) for chart in one["charts"]] for one in found]
    assert ranges[0] == ranges[1]
    assert ranges[0][0][1] > 50
    assert ranges[0][1][1] > 4
    assert found[0]["charts"][1]["summary"] == "at the end lowest dog: 0.5, highest cat: 1.5"
    assert found[0]["charts"][1]["sizes"][0].paths != found[1]["charts"][1]["sizes"][0].paths
    assert list(found[0]["charts"][1]["sizes"][0].paths) == ["cat", "dog"]
