"""Which pool a model is asked of: the one that names it, else the default pool, else none."""

from serve.errors import BadRequest, ConfigError
from serve.settings import InferenceSettings, Settings
from serve.wire.names import canonical


class Pools:
    """The configured pools, and the models that they name."""

    def __init__(self, settings: Settings) -> None:
        """Raises `ConfigError` if two pools name one model, or a name is none."""
        self.shapes = settings.shapes
        self._named: dict[str, str] = {}
        for name, shape in self.shapes.items():
            for model in (*shape.models, *shape.serves):
                self._name(_canonical(model, name), name)
        defaults = [name for name, pool in settings.pools.items() if pool.default]
        self.default = "" if not settings.pools else next(iter(defaults), None)

    def of(self, model: str) -> str | None:
        """The pool for a canonical name; None if nobody serves it."""
        return self._named.get(model, self.default)

    def __getitem__(self, name: str) -> InferenceSettings:
        return self.shapes[name]

    def _name(self, model: str, pool: str) -> None:
        other = self._named.setdefault(model, pool)
        if other != pool:
            raise ConfigError(
                f"pools.{pool}.models: {model} is a model of the pool {other!r} too; one must do"
            )


def _canonical(model: str, pool: str) -> str:
    try:
        return canonical(model)
    except BadRequest as error:
        path = f"pools.{pool}.models" if pool else "inference.models"
        raise ConfigError(f"{path}: {model!r}: {error}") from None
