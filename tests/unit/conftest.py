"""The core is imported without Ansible, straight from plugins/; plugins that need Ansible come by their FQCN."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "plugins"))

try:
    from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder
except ImportError:
    pass
else:
    _AnsibleCollectionFinder(paths=[str(ROOT / ".ansible" / "collections")])._install()
