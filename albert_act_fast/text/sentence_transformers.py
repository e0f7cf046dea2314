"""sentence-transformers' own module, which knows this package's models.

A folder that was saved with it names this class, so that loading it imports this package:
`SentenceTransformer(folder, trust_remote_code=True)` needs no other import. (sentence-transformers
asks for that consent for every class that is not its own; no code comes with the folder.)
"""

from __future__ import annotations

from sentence_transformers.sentence_transformer.modules import Transformer

import albert_act_fast.registration  # noqa: F401 - AutoModel finds the models


class AlbertActTransformer(Transformer):
    """Use it as sentence-transformers' `Transformer`: with a folder or a hub name, before pooling.
    In `encode` the engine runs, with running tokens only."""
