"""What may be configured: flags over GATE_* over gate.toml over what stands here. Numbers live here once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from gate.errors import CannotStart
from gate.jobs import POOL_NAME, QUEUE_MAX, SECONDS_MAX, SECONDS_MIN, SLOTS_MAX, in_ms

Seconds = Annotated[float, Field(ge=SECONDS_MIN, le=SECONDS_MAX, allow_inf_nan=False)]


class PoolDefaults(BaseModel):
    """The settings of a pool, as a person writes them."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=0, le=SLOTS_MAX)] = 3  # what the provider takes at a time
    lease_seconds: Seconds = 600  # a job that says nothing for so long is lost
    max_hold_seconds: Seconds = 3600  # no renewal goes beyond it
    claim_seconds: Seconds = 60  # to start what was granted; also the grace after an absence
    queue_seconds: Seconds = 600  # to wait in line
    queue_max: Annotated[int, Field(ge=0, le=QUEUE_MAX)] = 1000
    cooldown_seconds: Seconds = 5  # after a refusal, doubling to at most 60
    max_active_per_user: Annotated[int, Field(ge=0, le=QUEUE_MAX)] = 0  # 0 = no cap

    def in_ms(self) -> dict[str, int]:
        return in_ms(self.model_dump())


class Settings(PoolDefaults, BaseSettings):
    model_config = SettingsConfigDict(env_prefix="GATE_", extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    data_dir: Path = Path(".gate")
    redis_url: Annotated[str | None, Field(repr=False)] = None  # they may hold passwords
    database_url: Annotated[str | None, Field(repr=False)] = None
    admin_key: SecretStr | None = None
    access_log: bool = False
    pools: dict[str, dict[str, Any]] = {}

    @field_validator("admin_key")
    @classmethod
    def _a_key_can_be_shown(cls, key: SecretStr | None) -> SecretStr | None:
        """As a header carries it; an empty one is none."""
        text = key.get_secret_value().strip() if key else ""
        if not (text.isascii() and (text == "" or text.isprintable())):
            raise ValueError("a key is printable ASCII")
        return SecretStr(text) if text else None

    @field_validator("pools")
    @classmethod
    def _pools_are_well_formed(cls, pools: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, values in pools.items():
            if not POOL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no pool name")
            PoolDefaults.model_validate(values)
        return pools

    def defaults(self) -> PoolDefaults:
        """Of a pool that no file names."""
        return PoolDefaults.model_validate({name: getattr(self, name) for name in PoolDefaults.model_fields})

    def pool_defaults(self) -> dict[str, PoolDefaults]:
        """Every pool this gate has to have; `default` always exists."""
        common = self.defaults().model_dump()
        named: dict[str, dict[str, Any]] = {"default": {}, **self.pools}
        return {name: PoolDefaults.model_validate(common | values) for name, values in named.items()}

    @property
    def sql_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'gate.db'}"

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, **_others: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(config: Path | None = None, **flags: Any) -> Settings:
    """The settings in force. `flags` that are None were not given. Raises CannotStart, naming what is wrong."""
    if config is not None and not config.is_file():
        raise CannotStart(f"there is no configuration file {config}")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config or Path("gate.toml"))

    try:
        return FromFile(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CannotStart(f"the setting {where!r} is wrong: {first['msg']}") from error
    except ValueError as error:  # gate.toml is no TOML
        raise CannotStart(f"{config or 'gate.toml'} cannot be read: {error}") from error
