"""The marks that transformers' own tests carry."""

MARKS = (
    "accelerate_tests flash_attn_test flash_attn_3_test flash_attn_4_test generate "
    "torch_compile_test torch_export_test"
)


def pytest_configure(config) -> None:
    for mark in MARKS.split():
        config.addinivalue_line("markers", f"{mark}: of transformers")
