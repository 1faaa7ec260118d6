"""Who runs each command of the pages: ``laptop.py``, an existing test that is named here, or nobody here, and why.

A command stands here as its page has it, without comments, and for all pages that have it.
"""

from __future__ import annotations

from tests.docs.laptop import STEPS

E2E = "tests/e2e/test_radar_finds_optical.py::test_a_radar_file_finds_its_place_over_http"
JOBS = "tests/e2e/test_jobs.py::test_train_index_and_serve_on_a_cluster"
CHECK = "tests/sscm/cluster/test_check.py::test_the_odd_node_is_named_with_what_is_wrong"
STORE = "tests/sscm/test_object_storage.py::test_commands_over_an_object_store"
RECIPES = "tests/sscm/experiment/test_recipes.py::test_recipes_say_what_is_compared"
MAKE = "tests/docs/test_commands.py::test_what_make_would_do"
MONITORING = "tests/cluster/test_monitoring.py"

RUN = frozenset(step.text for step in STEPS)
"""Run by ``test_laptop.py``."""

NAMED: dict[str, str] = {
    # What make does is looked at, not done: it would be this very run, or write where the user works.
    "make demo": MAKE,
    "make test": MAKE,
    "make .venv/.installed": MAKE,
    'make demo ARGS="--no-serve --json figures.json"': MAKE,
    # BigEarthNet folders, from ingest to answers.
    "sscm ingest bigearthnet --root /data/BigEarthNet": E2E,
    "sscm train --epochs 50": E2E,
    "sscm evaluate --workspace /data/ben --protocol jepa": (
        "tests/sscm/evaluation/test_evaluate.py::test_published_protocols"
    ),
    "sscm serve --workspace /data/ben": E2E,
    "sscm serve --port 8001": E2E,
    # Its settings reach the service there; that keys are asked for, laptop.py sees by the next line of the page.
    "sscm serve --host 0.0.0.0 --keys workspace/keys.json": (
        "tests/serve/test_settings_file.py::test_settings_come_back"
    ),
    "sscm ingest bigearthnet --root /data/BigEarthNet --workspace /data/ben --add": (
        "tests/sscm/archive/test_adding.py::test_what_is_new_comes_beside_what_is_there"
    ),
    "sscm index append --workspace /data/ben": (
        "tests/sscm/archive/test_adding.py::test_an_index_appends_what_was_added_and_finds_it"
    ),
    # Another model.
    "sscm train --name second": E2E,
    "sscm index --model second": (
        "tests/sscm/index/test_build.py::test_another_model_or_archive_makes_another_generation"
    ),
    # STAC and object storage.
    "sscm ingest stac --catalog s3://bucket/alps/catalog.json --max-days 3 --workspace s3://bucket/alps-archive": (
        "tests/sscm/archive/sources/test_stac.py::test_patches_are_what_direct_reading_gives"
    ),
    "sscm ingest pairs --table s3://images/pairs.csv --modalities bands.toml --workspace s3://mine/w": STORE,
    "sscm train --workspace s3://mine/w": (
        "tests/sscm/training/test_train.py::test_storage_that_is_away_for_a_while_ends_nothing"
    ),
    "sscm index --workspace s3://mine/w": "tests/sscm/index/test_export.py::test_from_and_to_an_object_store",
    "sscm serve --workspace s3://mine/w --keys s3://mine/keys.json": (
        "tests/sscm/test_keys.py::test_keys_may_lie_in_any_file_system"
    ),
    "sscm index export s3://bucket/embeddings --modalities s2 --splits test": (
        "tests/sscm/index/test_export.py::test_from_and_to_an_object_store"
    ),
    "sscm keys add ops --role admin --keys s3://BUCKET/sscm/keys.json": (
        "tests/sscm/test_keys.py::test_keys_may_lie_in_any_file_system"
    ),
    "pytest tests/sscm/test_object_storage.py": STORE,
    'pytest tests/sscm/index -k "object or bucket or store or meet"': (
        "tests/sscm/index/test_export.py::test_from_and_to_an_object_store"
    ),
    # A Ray of several processes, and jobs on it.
    "export RAY_AUTH_MODE=token && ray get-auth-token --generate > /dev/null": JOBS,
    "ray start --head --num-cpus 8": JOBS,
    "ray job submit --address http://127.0.0.1:8265 --working-dir . -- sscm train --workspace $PWD/workspace "
    "--name first": JOBS,
    "ray job submit --address http://127.0.0.1:8265 --working-dir . -- sscm index --workspace $PWD/workspace": JOBS,
    "ray job submit --address http://127.0.0.1:8265 --working-dir . -- sscm train --workspace $PWD/demo "
    "--name on-ray --epochs 2 --backbone resnet10t --image-size 64": JOBS,
    "ray job submit --address http://127.0.0.1:8265 --working-dir . -- sscm index --workspace $PWD/demo": JOBS,
    "serve deploy serve.yaml --address http://127.0.0.1:8265": JOBS,
    "ray job submit --address http://127.0.0.1:8265 --working-dir . -- sscm cluster check --workspace s3://BUCKET/sscm "
    "--gpu --workers 4": CHECK,
    "RAY_ADDRESS=127.0.0.1:6379 sscm cluster check --workspace s3://BUCKET/sscm --json check.json": CHECK,
    # Experiments: hours of training; their files are read and their flags are there.
    ".venv/bin/sscm experiment recipes/simulated.toml --workspace simulated": RECIPES,
    ".venv/bin/sscm experiment recipes/choices.toml --workspace ombria": RECIPES,
    "sscm experiment recipes/ben14k.toml --workspace ben14k": RECIPES,
    ".venv/bin/python benchmarks/ombria.py --data FOLDER --workspace ombria": (
        "tests/docs/test_commands.py::test_a_benchmark_has_the_flags_that_a_page_gives_it"
    ),
    ".venv/bin/python benchmarks/dropped.py --workspace ombria --recipe recipes/ombria.toml": (
        "tests/docs/test_commands.py::test_a_benchmark_has_the_flags_that_a_page_gives_it"
    ),
    # Monitoring.
    "prometheus --config.file=cluster/prometheus/prometheus.yml": f"{MONITORING}::test_promtool_finds_no_fault",
    "GF_PATHS_PROVISIONING=cluster/grafana/provisioning grafana server": (
        f"{MONITORING}::test_what_is_provisioned_is_there"
    ),
}
"""Command → a test that runs it, or the same with other files and sizes."""

PARSED: dict[str, str] = {
    "ray stop": "would end every Ray of this machine",
    "sscm train --workspace /data/ben --name ben50 --backbone resnet50 --epochs 100 --gpu --workers 4 "
    "--cpus-per-worker 14": "needs GPUs",
    "sscm index --workspace /data/ben --gpu --cpus-per-actor 14": "needs GPUs",
    "ray up ray_cluster.yaml --yes": "needs a cloud",
    "ray dashboard ray_cluster.yaml &": "needs a cloud",
    "ray down ray_cluster.yaml --yes": "needs a cloud",
    "$submit sscm ingest bigearthnet $W --root s3://BUCKET/BigEarthNet": "needs a cloud",
    "$submit sscm train $W --name first --gpu --workers 4 --min-workers 1 --cpus-per-worker 14": "needs a cloud",
    "$submit sscm index $W --gpu --actors 4 --cpus-per-actor 12": "needs a cloud",
    "sscm serve $W --host 0.0.0.0 --shards 4 --replicas 2 --gateways 2 --max-gateways 8 --write serve.yaml": (
        "its file names a bucket; test_settings_that_a_page_writes_are_ones writes it"
    ),
}
"""Command of ``sscm``, ``ray`` or ``serve`` → why it is held against that program's parser and not run."""

NOT_HERE: dict[str, str] = {
    "docker build -f cluster/docker/Dockerfile --target cpu -t sscm:0.1.0-cpu .": "no container runtime",
    "docker build -f cluster/docker/Dockerfile --target cuda -t REGISTRY/sscm:0.1.0-cuda .": "no container runtime",
    "docker push REGISTRY/sscm:0.1.0-cuda": "no registry",
    "kind create cluster": "no container runtime",
    "kind load docker-image sscm:0.1.0-cpu": "no container runtime",
    "helm repo add kuberay https://ray-project.github.io/kuberay-helm/": "no Kubernetes",
    "helm install kuberay-operator kuberay/kuberay-operator --version 1.7.0": "no Kubernetes",
    "kubectl apply -k cluster/kuberay/overlays/kind -l 'sscm/part!=service'": "no Kubernetes",
    "kubectl apply -k cluster/kuberay/overlays/kind": "no Kubernetes",
    "kubectl create -f cluster/kuberay/overlays/kind/jobs/ingest.yaml": "no Kubernetes",
    "kubectl create -f cluster/kuberay/overlays/kind/jobs/train.yaml": "no Kubernetes",
    "kubectl create -f cluster/kuberay/overlays/kind/jobs/index.yaml": "no Kubernetes",
    "kubectl apply -k $O -l 'sscm/part!=service'": "no Kubernetes",
    "kubectl apply -k $O": "no Kubernetes",
    "kubectl create -f $O/jobs/train.yaml": "no Kubernetes",
    "kubectl apply -f $O/jobs/refresh.yaml": "no Kubernetes",
    "kubectl create -f $O/jobs/index.yaml": "no Kubernetes",
    "kubectl -n sscm create secret generic sscm-redis --from-literal=password=PASSWORD": "no Kubernetes",
    "kubectl -n sscm create secret generic sscm-s3 --from-literal=AWS_ACCESS_KEY_ID=… "
    "--from-literal=AWS_SECRET_ACCESS_KEY=…": "no Kubernetes",
    "kubectl -n sscm get rayjobs --watch": "no Kubernetes",
    "kubectl -n sscm port-forward service/sscm-serve-svc 8000": "no Kubernetes",
    "apt-get install --no-install-recommends ceph-common ceph-mgr ceph-mon ceph-osd radosgw": "changes the machine",
    ". tests/plugins/real_store.sh /tmp/ceph-of-tests": "needs Ceph",
    "kill $(cat /tmp/ceph-of-tests/*.pid)": "needs Ceph",
}
"""Command of another program → why it cannot be run here."""

REMEDY = """
No test covers this command of a page. Do one of these in tests/docs:
 - have it run: a Step in laptop.py, which is best;
 - name the test that runs it already, in NAMED of coverage.py;
 - where it needs a cloud, GPUs or Kubernetes: PARSED (sscm, ray, serve) or NOT_HERE (other programs), with the reason.
"""
