"""Build script: what pyproject.toml cannot say.

`kernels/` stands at the top of the tree beside `csrc/`, yet is installed and imported only as
`albert_act_fast.kernels`: the top-level name `kernels` belongs to Hugging Face's package.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["albert_act_fast", "albert_act_fast.*"]),
        # Named by hand: it has no __init__.py (see kernels/README.md), so nothing finds it.
        "albert_act_fast.kernels",
    ],
    package_dir={"albert_act_fast.kernels": "kernels"},
    package_data={
        "albert_act_fast": ["py.typed", "data/**/*"],
        # Keeps the folder in the wheel while it has no modules.
        "albert_act_fast.kernels": ["*.md"],
    },
    # The wheel holds what is listed above and nothing else, whatever lies in the tree.
    include_package_data=False,
    # Native extensions (csrc/) are attached here, as ext_modules, once there are any.
)
