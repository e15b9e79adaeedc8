"""Pre-trained language models: which one, its tokens, its adapters, and how it is fetched.

The packages of the extra `language` are imported on first use; without them every call says how to install them.
"""

from lmrs.language.backbone import Backbone, Info, admit, require

__all__ = ["Backbone", "Info", "admit", "require"]
