"""What `kustomize build` would print, for the few of its features that infra/deploy/kubernetes uses.

Kustomize is no package of the registries that are reached from here. Its resources, namespace, images and
JSON patches are applied here as it documents them; anything else in a kustomization is refused.
"""

import copy
from pathlib import Path
from typing import Any

import jsonpatch
import yaml  # type: ignore[import-untyped]  # its types are a package of their own

KNOWN = {"apiVersion", "kind", "namespace", "resources", "images", "patches"}
CLUSTER_WIDE = {"Namespace"}

Manifest = dict[str, Any]


def build(folder: Path) -> list[Manifest]:
    """Every manifest of a kustomization."""
    own = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = own.keys() - KNOWN
    assert not unknown, f"{folder}: {unknown} is not resolved here"
    manifests: list[Manifest] = []
    for name in own["resources"]:
        path = folder / name
        manifests += build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for patch in own.get("patches", []):
        manifests = _patched(manifests, patch["target"], yaml.safe_load((folder / patch["path"]).read_text()))
    for manifest in manifests:
        if manifest["kind"] not in CLUSTER_WIDE:
            manifest["metadata"]["namespace"] = own["namespace"]
        for container in _pod(manifest).get("containers", []):
            for image in own.get("images", []):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    return manifests


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pod templates of Keyway's own workloads, by their names."""
    return {m["metadata"]["name"]: m["spec"]["template"] for m in manifests if _pod(m)}


def _pod(manifest: Manifest) -> Manifest:
    if manifest["kind"] not in {"Deployment", "Job"}:
        return {}
    found: Manifest = manifest["spec"]["template"]["spec"]
    return found


def _patched(manifests: list[Manifest], target: Manifest, patch: list[Manifest]) -> list[Manifest]:
    changed: list[Manifest] = []
    found = False
    for manifest in manifests:
        if (manifest["kind"], manifest["metadata"]["name"]) == (target["kind"], target["name"]):
            changed.append(jsonpatch.apply_patch(copy.deepcopy(manifest), patch))
            found = True
        else:
            changed.append(manifest)
    assert found, f"there is no {target} to patch"
    return changed
