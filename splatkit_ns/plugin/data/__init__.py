"""Images, cameras and seed points that nerfstudio reads, checked and converted to our shapes, in folders by subject.

Beside them lies what models and renderers need of data: `cameras`, `backgrounds` and `initial`; and `errors`, of all.
"""
