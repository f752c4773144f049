"""The core is imported without Ansible, straight from plugins/; plugins that need Ansible come by their FQCN."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "plugins"))

# What a user without this checkout's ansible.cfg has.
os.environ["ANSIBLE_CONFIG"] = str(pathlib.Path(__file__).with_name("defaults.cfg"))

try:
    from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder
except ImportError:
    pass
else:
    _AnsibleCollectionFinder(paths=[str(ROOT / ".ansible" / "collections")])._install()
