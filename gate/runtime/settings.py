"""The settings of gate. A flag comes before GATE_*, GATE_* before gate.toml, gate.toml before the defaults in this module."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from gate.model import store_url
from gate.model.account import Account, Accounts, Capacity
from gate.model.errors import CannotStart
from gate.model.job import POOL_NAME, CancelRefunds, in_ms
from gate.model.label import FIT, is_label
from gate.model.limits import LABEL_MAX, QUEUE_MAX, REFUSALS_MAX, SECONDS_MAX, SECONDS_MIN, SLOTS_MAX, WAIT_MAX_S
from gate.model.tool import SHIPPED_NAMES, Tool, Tools

if TYPE_CHECKING:
    from gate.providers.page import ProviderPage

SHUTDOWN_DELAY_S = 12.0
"""Default of `shutdown_delay_seconds` (s) where another server may be. nginx passes a server that has refused a connection for 10 s, as a
whole number of its seconds. Two servers that are restarted one after the other must not both be passed."""
Seconds = Annotated[float, Field(ge=SECONDS_MIN, le=SECONDS_MAX, allow_inf_nan=False)]


def _is_address(value: str) -> str:
    try:
        where = urlsplit(value)
        whole = where.scheme in ("http", "https") and where.hostname and (where.port is None or where.port > 0)
    except ValueError:  # the port is no number
        whole = False
    if not whole or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("must be an address, http://… or https://…")
    return value


def _is_provider(value: str) -> str:
    """Check the address of a provider. Its key goes into a header, and a password in the address would be shown in errors."""
    if "@" in urlsplit(_is_address(value)).netloc:
        raise ValueError("must have no user and no password: put the key into key or key_env")
    return value


def _is_name(value: str) -> str:
    if not POOL_NAME.fullmatch(value):
        raise ValueError(f"must match {POOL_NAME.pattern}")
    return value


def _is_label(value: str) -> str:
    if not is_label(value):
        raise ValueError(f"a name has 1 to {LABEL_MAX} characters, and {FIT}")
    return value


def _signs(value: SecretStr) -> SecretStr:
    from gate.providers import standard

    if fault := standard.fault(value.get_secret_value()):
        raise ValueError(f"a secret {fault}")
    return value


class PoolDefaults(BaseModel):
    """The settings of a pool, with times in seconds."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=0, le=SLOTS_MAX)] = 3  # tasks that the provider accepts at once
    lease_seconds: Seconds = 600  # a job without a renewal for this time is lost
    max_hold_seconds: Seconds = 3600  # no renewal extends a lease beyond it
    claim_seconds: Seconds = 60  # time to start a granted job; also the grace after an absence of gate or a store
    queue_seconds: Seconds = 600  # longest time in the queue
    queue_max: Annotated[int, Field(ge=0, le=QUEUE_MAX)] = 1000
    cooldown_seconds: Seconds = 5  # pause of grants after a refusal; it doubles up to 60
    max_active_per_user: Annotated[int, Field(ge=0, le=QUEUE_MAX)] = 0  # 0 = no limit
    queue_max_per_user: Annotated[int, Field(ge=0, le=QUEUE_MAX)] = 0  # 0 = no limit
    refusals_before_passing: Annotated[int, Field(ge=1, le=REFUSALS_MAX)] = 3  # of one job in a row; then another is tried
    cancel_refunds: CancelRefunds = "always"  # until_started: none for a job that is cancelled after its start

    def in_ms(self) -> dict[str, Any]:
        """Return the settings under the names of the ledger, with times in milliseconds."""
        return in_ms(self.model_dump())


class ToolSettings(BaseModel):
    """The settings in `[tools.TABLE]`: the addresses at which gate starts the jobs of a tool, and notifies it of changes."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(_is_label)] | None = None
    provider: Annotated[str, AfterValidator(_is_name)] | None = None
    start_url: Annotated[str, AfterValidator(_is_address)] | None = None
    events_url: Annotated[str, AfterValidator(_is_address)] | None = None
    secret: Annotated[SecretStr, AfterValidator(_signs)] | None = None
    pool: Annotated[str, AfterValidator(_is_name)] = "default"  # the pool into which the compatible paths admit its jobs
    lease_seconds: Seconds | None = None  # of its jobs; None for the pool's
    queue_seconds: Seconds | None = None  # of its jobs; None for the pool's
    cancel_refunds: CancelRefunds | None = None  # of its jobs; None for the pool's
    retry: Annotated[int, Field(ge=0, le=10)] = 0  # how often gate starts a job again after a failure that is not the job's
    retry_on: list[
        Annotated[str, Field(min_length=3, max_length=200)]
    ] = []  # words of an error by which a failure is one of those

    def tool(self, table: str) -> Tool:
        """Return the tool of this table."""
        name = self.name or SHIPPED_NAMES.get(table, table)
        secret = self.secret.get_secret_value() if self.secret else None
        lease_ms, queue_ms = (
            None if seconds is None else round(seconds * 1000) for seconds in (self.lease_seconds, self.queue_seconds)
        )
        return Tool(
            table, name, self.provider, self.start_url, self.events_url, secret, self.pool, lease_ms, queue_ms,
            self.cancel_refunds, self.retry, tuple(words.casefold() for words in self.retry_on),
        )  # fmt: skip


class AccountSettings(BaseModel):
    """The settings in `[providers.NAME.accounts.ACCOUNT]`: a key by which gate asks about tasks, and stops them."""

    model_config = ConfigDict(extra="forbid")

    key: SecretStr | None = None
    key_env: str | None = None  # the variable that holds the key
    pool: Annotated[str, AfterValidator(_is_name)] = "default"
    base_url: Annotated[str, AfterValidator(_is_provider)] | None = None  # None for the provider's
    limit: Annotated[int, Field(ge=1, le=SLOTS_MAX)] | None = None  # tasks of gate on it at once; None for any number

    def secret(self) -> str:
        """Return the key; empty when the variable is not set here. Only the server needs it.

        Raises:
            ValueError: Neither or both of `key` and `key_env` are set, or no header can carry the key.
        """
        if (self.key is None) == (self.key_env is None):
            raise ValueError("needs either key or key_env")
        key = self.key.get_secret_value() if self.key is not None else os.environ.get(self.key_env or "", "")
        if not (key.isascii() and key.isprintable()) or " " in key or (self.key is not None and not key):
            raise ValueError(f"has no key: {self.key_env or 'key'} must hold printable ASCII")
        return key


class ProviderSettings(BaseModel):
    """The settings in `[providers.NAME]`: the secrets by which gate checks its callbacks, and the accounts by which gate asks it."""

    model_config = ConfigDict(extra="forbid")

    token: SecretStr | None = None
    secrets: list[SecretStr] = []
    base_url: Annotated[str, AfterValidator(_is_provider)] | None = None
    callbacks: bool | Literal["hint"] = True  # False: it sends none; "hint": one makes gate ask, and is not believed itself
    silence_seconds: Seconds = 600  # how long a lease is extended while the provider does not answer
    drain_seconds: Seconds = 30  # how long a stopped task keeps its slot at most
    questions_per_second: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 5  # of each account, over all servers
    capacity: Capacity = (
        "follow"  # "watch": the provider's limit and the tasks of others are only shown; "off": never asked for
    )
    accounts: dict[str, AccountSettings] = {}

    def of(self, provider: str, page: ProviderPage) -> Iterator[Account]:
        """Yield the accounts.

        Args:
            provider: Name of the provider.
            page: Its page.

        Raises:
            ValueError: An account has no key, or no address is known.
        """
        for name, one in self.accounts.items():
            where = f"account {name!r} of {provider}"
            if not POOL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no account name: it must match {POOL_NAME.pattern}")
            base_url = one.base_url or self.base_url or page.base_url
            if base_url is None:
                raise ValueError(f"{where} has no base_url, and the provider has no address of its own")
            try:
                key = one.secret()
            except ValueError as error:
                raise ValueError(f"{where} {error}") from error
            yield Account(
                provider, name, one.pool, key, base_url.rstrip("/"), self.callbacks is not False,
                round(self.silence_seconds * 1000), round(self.drain_seconds * 1000), self.questions_per_second,
                one.limit, self.capacity,
            )  # fmt: skip

    def all(self) -> tuple[str, ...]:
        """Return the token and all secrets."""
        shown = ([self.token] if self.token is not None else []) + self.secrets
        return tuple(one.get_secret_value() for one in shown)


class Settings(PoolDefaults, BaseSettings):
    """All settings of a gate."""

    model_config = SettingsConfigDict(env_prefix="GATE_", extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    data_dir: Path = Path(".gate")
    redis_url: Annotated[str | None, Field(repr=False)] = None  # not in repr, because addresses may hold passwords
    database_url: Annotated[str | None, Field(repr=False)] = None
    database_read_url: Annotated[str | None, Field(repr=False)] = None  # a replica, for reports and the panel
    admin_key: SecretStr | None = None
    access_log: bool = False
    workers: Annotated[int, Field(ge=1, le=64)] = 1  # processes that share the port
    wait_max_seconds: Annotated[float, Field(ge=1, le=WAIT_MAX_S, allow_inf_nan=False)] = (
        55  # less than the 60 s of most proxies
    )
    shutdown_delay_seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] | None = (
        None  # None: as others may serve
    )
    metrics_pools: Annotated[int, Field(ge=1, le=100_000)] = 200  # pools that /metrics reports one by one
    check_counts: bool = False  # True to answer a `check` without a job with the number of free slots
    job_sql: str | None = None
    refund_sql: str | None = None
    pools: dict[str, dict[str, Any]] = {}
    tools: dict[str, ToolSettings] = {}
    providers: dict[str, ProviderSettings] = {}

    @field_validator("redis_url", "database_url", "database_read_url")
    @classmethod
    def _an_address_is_sound(cls, url: str | None, field: ValidationInfo) -> str | None:
        """Check an address before anything prints it. An empty one counts as none."""
        if not (url or "").strip():
            return None
        if field.field_name == "redis_url":
            return store_url.redis_url(url or "")
        if field.field_name == "database_url":
            return store_url.sql_url(url or "")
        if not (field.data.get("database_url") or "").startswith("postgresql:"):
            raise ValueError("it names a replica of GATE_DATABASE_URL, which is not on Postgres")
        return store_url.replica_url(url or "")

    @field_validator("admin_key")
    @classmethod
    def _a_key_can_be_shown(cls, key: SecretStr | None) -> SecretStr | None:
        """Accept only a key that a header can carry. An empty key counts as none."""
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
            try:
                PoolDefaults.model_validate(values)
            except ValidationError as error:
                raise ValueError(f"of {name}, {_fault(error, PoolDefaults)}") from error
        return pools

    @field_validator("tools")
    @classmethod
    def _tools_are_labels(cls, tools: dict[str, ToolSettings]) -> dict[str, ToolSettings]:
        for table in tools:
            if not is_label(table):
                raise ValueError(f"a tool's table has 1 to {LABEL_MAX} characters, and {FIT}")
        return tools

    @field_validator("providers")
    @classmethod
    def _providers_are_known(cls, providers: dict[str, ProviderSettings]) -> dict[str, ProviderSettings]:
        if providers:
            from gate.providers import PAGES, PROVIDERS

            for name, one in providers.items():
                if name not in PROVIDERS.keys() | PAGES.keys():
                    known = ", ".join(sorted(PROVIDERS.keys() | PAGES.keys()))
                    raise ValueError(f"there is no provider {name!r}: gate knows {known}")
                if one.accounts and name not in PAGES:
                    raise ValueError(f"{name} cannot be asked, so it has no accounts")
                if one.callbacks == "hint" and not (one.accounts and name in PROVIDERS):
                    lacks = "accounts: gate could ask it nothing" if name in PROVIDERS else "callbacks: it sends none"
                    raise ValueError(f'{name} has callbacks = "hint" and no {lacks}')
                if not one.all() and not one.accounts:
                    raise ValueError(f"{name} has neither a token nor secrets nor accounts: gate could believe nothing of it")
                if one.all() and name not in PROVIDERS:
                    raise ValueError(f"{name} sends no callbacks, so it has neither a token nor secrets")
                if one.accounts:
                    list(one.of(name, PAGES[name]))
                if fault := next((fault for secret in one.all() if (fault := PROVIDERS[name].fault(secret))), None):
                    raise ValueError(f"a secret of {name} {fault}")
        return providers

    @field_validator("job_sql", "refund_sql")
    @classmethod
    def _an_empty_one_is_none(cls, sql: str | None) -> str | None:
        return (sql or "").strip() or None

    def defaults(self) -> PoolDefaults:
        """Return the settings of a pool for which gate.toml has none."""
        return PoolDefaults.model_validate({name: getattr(self, name) for name in PoolDefaults.model_fields})

    def pool_defaults(self) -> dict[str, PoolDefaults]:
        """Return the settings of every configured pool by name. `default` is always one of them."""
        common = self.defaults().model_dump()
        named: dict[str, dict[str, Any]] = {
            "default": {},
            **{one.pool: {} for one in self.tools.values()},
            **{account.pool: {} for one in self.providers.values() for account in one.accounts.values()},
            **self.pools,
        }
        return {name: PoolDefaults.model_validate(common | values) for name, values in named.items()}

    def known_tools(self) -> Tools:
        """Return the configured tools."""
        return Tools({table: one.tool(table) for table, one in self.tools.items()})

    def provider_secrets(self) -> dict[str, tuple[str, ...]]:
        """Return the token and the secrets of each provider by its name."""
        return {name: one.all() for name, one in self.providers.items()}

    def refused_callbacks(self) -> list[str]:
        """Return the names of the providers that are to call back and have no secret to show, in order."""
        if not any(one.callbacks is True and not one.all() for one in self.providers.values()):
            return []
        from gate.providers import PROVIDERS

        return sorted(
            name for name, one in self.providers.items() if one.callbacks is True and not one.all() and name in PROVIDERS
        )

    def hinting(self) -> frozenset[str]:
        """Return the names of the providers whose callbacks are hints."""
        return frozenset(name for name, one in self.providers.items() if one.callbacks == "hint")

    def provider_accounts(self) -> Accounts:
        """Return the accounts at all providers."""
        if not any(one.accounts for one in self.providers.values()):
            return Accounts()
        from gate.providers import PAGES

        return Accounts(
            account for name, one in self.providers.items() if one.accounts for account in one.of(name, PAGES[name])
        )

    @property
    def sql_url(self) -> str:
        """Address of the database: the configured one, or a SQLite file in the data directory."""
        return self.database_url or f"sqlite:///{quote(str(self.data_dir.absolute() / 'gate.db'))}"

    @property
    def is_shared(self) -> bool:
        """Whether other servers may use the same stores."""
        return self.redis_url is not None and not self.sql_url.startswith("sqlite")

    @property
    def shutdown_delay_s(self) -> float:
        """Time (s) from the beginning of a stop to the close of the listener. Alone, a server has nothing to wait for."""
        if self.shutdown_delay_seconds is not None:
            return self.shutdown_delay_seconds
        return SHUTDOWN_DELAY_S if self.is_shared else 0.0

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """Return the sources of settings, the first before the others."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


_SECTIONS: dict[str, type[BaseModel]] = {"tools": ToolSettings, "providers": ProviderSettings}
"""Settings of the sections of gate.toml, by the first part of their name."""
NO_SETTINGS = frozenset({"GATE_URL", "GATE_KEY", "GATE_SECRET", "GATE_JOB_ID", "GATE_LEASE_ID", "GATE_FENCE"})
"""Variables of callers: those of the examples and of `gate run`, and those that it gives its command."""
OF_OTHERS = re.compile(r"GATE_TEST_\w+|GATE_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
"""Variables that others set: gate's own tests, and Kubernetes for a service named gate or gate-…, with GATE_…_PORT=tcp://…"""


def load(config: Path | None = None, **flags: Any) -> Settings:
    """Read the settings from flags, the environment and a file.

    Args:
        config: The file; None for `gate.toml` in the current directory, if there is one.
        flags: Settings from the command line; None for a flag that was not given.

    Returns:
        The settings in force.

    Raises:
        CannotStart: A setting is wrong or unknown, or the file cannot be read. The message names it.
    """
    if config is not None and not config.is_file():
        raise CannotStart(f"there is no configuration file {config}")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config or Path("gate.toml"))

    _refuse_unknown_variables()
    try:
        return FromFile(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise CannotStart(_fault(error)) from error
    except ValueError as error:  # gate.toml is no TOML
        raise CannotStart(f"{config or 'gate.toml'} cannot be read: {error}") from error


def _refuse_unknown_variables() -> None:
    """Raise CannotStart for a variable GATE_* that is no setting. A typo would leave the default in force without a word."""
    known = {f"GATE_{name.upper()}" for name in Settings.model_fields}
    for name, value in sorted(os.environ.items()):
        is_ours = name.upper().startswith("GATE_") and not OF_OTHERS.fullmatch(name)
        if is_ours and name.upper() not in known | NO_SETTINGS and not (name.endswith("_PORT") and "://" in value):
            raise CannotStart(f"there is no setting {name}{_meant(name.upper(), known)}")


def _meant(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that is most like an unknown one."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _fault(error: ValidationError, kind: type[BaseModel] = Settings) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        *section, name = (str(part) for part in first["loc"])
        known = (_SECTIONS[section[0]] if section else kind).model_fields
        return f"there is no setting {where!r}{_meant(name, known)}"
    return f"the setting {where!r} is wrong: {first['msg'].removeprefix('Value error, ')}"
