from server_conftest import serve, tiny_engine  # noqa: F401
