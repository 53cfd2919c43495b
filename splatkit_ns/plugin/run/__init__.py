"""The run around the steps, in folders by subject.

`opaque_parts` and `config_tensors` lie beside them: ``config.yml`` names what is in these two by its import path.
"""
