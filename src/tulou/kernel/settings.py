"""Settings from one file and the environment, each remembering where its value came from.

Law: environment over file over default; an unknown key in the file is an error, because a misspelt setting that is
silently ignored is worse than a house that does not start.

The file is `tulou.toml` in the home (`TULOU_HOME`, default `./var`), or the path in `TULOU_CONFIG`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from tulou.kernel.errors import Invalid

Source = Literal["default", "file", "env"]

API = "/api/v1"
"""Where the house's own routes begin."""

SECRET = {"admin_password", "database_url", "clickhouse_url", "edge_token", "nats_url", "objects_url", "oidc_client_secret",
          "sms_authorization", "smtp_password"}


def _entry(default: Any, zh: str, en: str) -> Any:
    return field(default=default, metadata={"zh": zh, "en": en})


@dataclass(frozen=True)
class Settings:
    """Every setting of the house. The environment name of `x` is `TULOU_X`."""

    home: Path = _entry(Path("var"), "数据目录", "data folder")
    bind: str = _entry("127.0.0.1", "监听地址", "address that listeners bind to")
    http_port: int = _entry(8080, "HTTP 端口", "HTTP port")
    mqtt_port: int = _entry(1883, "MQTT 端口", "MQTT port; 0 closes the listener")
    mqtts_port: int = _entry(0, "MQTT TLS 端口", "MQTT over TLS port; 0 closes the listener")
    mqtt_anonymous: str = _entry(
        "", "允许无凭证的 MQTT 客户端进入的主题空间名；空为不允许",
        "topic space that MQTT clients without credentials are let into, apart from every organisation's; empty: none is",
    )
    mqtt_keep_alive: int = _entry(
        0, "MQTT 5 应用的最长保活时间（秒），0 为不限", "longest keep alive of MQTT 5 applications in seconds; 0: any"
    )
    mqtt_hours: int = _entry(
        72, "应用消息为离线会话保留的时长（小时）", "how long applications' messages are kept for absent sessions, in hours"
    )
    field_ports: str = _entry(
        "", "现场协议端口，如 hj212=5212,jt808=6808；未列出者关闭",
        "ports of field protocols over TCP, as hj212=5212,jt808=6808; what is not named is closed",
    )
    coap_port: int = _entry(0, "CoAP 端口（UDP）", "CoAP port (UDP); 0 closes the listener")
    lwm2m: str = _entry(
        "", "在 CoAP 端口接受 LwM2M 注册：空为不接受；nosec 为不加密，仅限封闭网络",
        "accept LwM2M registrations on the CoAP port: empty: no; nosec: unencrypted, for closed networks only",
    )
    gb28181_port: int = _entry(0, "GB/T 28181 信令端口（UDP 与 TCP）", "GB/T 28181 signalling port (UDP and TCP); 0 closes the listener")
    gb28181_tls_port: int = _entry(0, "GB/T 28181 信令 TLS 端口", "GB/T 28181 signalling over TLS; 0 closes the listener")
    gb28181_id: str = _entry("35000000002000000001", "本平台的国标编码（20 位）", "the house's own code in GB/T 28181, 20 digits")
    gb28181_realm: str = _entry(
        "", "国标 SIP 域，空为编码前 10 位；用于此后所设口令",
        "realm of GB/T 28181, empty: the first 10 digits of the code; it is that of passwords set from then on",
    )
    gb28181_media: str = _entry(
        "", "媒体服务器接口地址；空为不能点播", "address of the media server's interface for GB/T 28181; empty: nothing can be played"
    )
    ocpp_port: int = _entry(0, "OCPP 端口（WebSocket）", "OCPP port (WebSocket); 0 closes the listener")
    ocpps_port: int = _entry(0, "OCPP TLS 端口", "OCPP over TLS port; 0 closes the listener")
    ocpp_tags: str = _entry(
        "list", "哪些卡可以充电：list 为登记的卡，all 为任何卡", "which cards may charge: list: those that are registered, all: any"
    )
    field_tls_ports: str = _entry("", "现场协议 TLS 端口，写法同上", "ports of field protocols over TLS, written alike")
    field_udp_ports: str = _entry("", "现场协议 UDP 端口，写法同上，仅 ais", "ports of field protocols over UDP, written alike; ais only")
    tls_certificate: str = _entry("", "TLS 证书文件", "TLS certificate file (PEM) for HTTP, MQTT, OCPP and field protocols")
    tls_key: str = _entry("", "TLS 私钥文件", "TLS private key file (PEM)")
    mqtts_client_certificate: str = _entry(
        "", "MQTT TLS 端口是否要求设备证书：空为不要求，optional 为可选，required 为必须",
        "whether MQTT over TLS asks for a device's certificate: empty: no; optional; required",
    )
    certificate_days: int = _entry(365, "签发的设备证书有效天数", "days for which device certificates that the house issues are valid")
    public_url: str = _entry("", "对外地址", "address that people use, for OIDC redirects and links")
    admin_password: str = _entry("", "首个管理员口令", "first administrator's password; made at random if empty")
    database_url: str = _entry("", "PostgreSQL 地址；空为 SQLite", "PostgreSQL address; empty means SQLite in the home")
    nats_url: str = _entry("", "外部 NATS；空为内置", "external NATS; empty starts our own nats-server")
    nats_server: str = _entry("", "nats-server 程序路径", "path of a system nats-server to start instead of the wheel's")
    nats_replicas: int = _entry(1, "JetStream 副本数", "JetStream replicas on an external cluster")
    clickhouse_url: str = _entry("", "外部 ClickHouse；空为 chDB", "external ClickHouse; empty means chDB in the home")
    objects_url: str = _entry("", "对象存储地址；空为数据目录", "object store (s3://bucket/prefix); empty means the home")
    stream_max_bytes: int = _entry(8 << 30, "READINGS 流上限（字节）", "bound of the READINGS stream in bytes")
    max_payload: int = _entry(1 << 20, "设备消息上限（字节）", "largest device message in bytes")
    max_http_connections: int = _entry(10_000, "最大 HTTP 连接数", "most HTTP connections")
    max_connections: int = _entry(100_000, "最大设备连接数", "most device connections")
    max_connections_address: int = _entry(
        20_000, "同一地址的最大设备连接数；IPv6 按 /64 计；0 为不限", "most device connections of one address, an IPv6 /64 counting as one; 0: no limit")
    max_connections_device: int = _entry(100, "同一设备的最大连接数；0 为不限", "most connections of one device; 0: no limit")
    temporal_instances: int = _entry(
        10_000, "一次历史查询的最多实例数", "most attribute instances in an answer to a temporal query; the rest is paged by time"
    )
    entity_history: bool = _entry(
        True, "保留经 NGSI-LD 写入的历史（设备读数总是保留）",
        "keep what is written of entities over NGSI-LD as history (readings of devices always are)",
    )
    report_fonts: str = _entry(
        "", "报告（PDF）所用中文字体的目录；空为本机字体", "folder of fonts with Chinese for reports in PDF; empty: those of the machine"
    )
    session_hours: int = _entry(12, "会话时长（小时）", "length of a sign-in session in hours")
    jobs_parallel: int = _entry(2, "同时运行的任务数", "jobs that run at the same time in a worker")
    jobs_per_org: int = _entry(2, "每个组织同时运行的任务数", "jobs of one organisation that run at the same time")
    log_level: str = _entry("info", "日志级别", "log level")
    oidc_issuer: str = _entry("", "OIDC 颁发者", "OIDC issuer; empty turns OIDC sign-in off")
    oidc_client_id: str = _entry("", "OIDC 客户端标识", "OIDC client id")
    oidc_client_secret: str = _entry("", "OIDC 客户端密钥", "OIDC client secret")
    oidc_link: str = _entry(
        "email", "OIDC 与已有用户的对应规则：email（已验证邮箱）、name、none",
        "how OIDC people are matched to known ones: email (verified), name, none",
    )
    oidc_unknown: str = _entry(
        "pending", "未知 OIDC 用户：pending（待开通）、active、refuse", "unknown OIDC people: pending, active, refuse"
    )
    oidc_org: str = _entry("house", "未知 OIDC 用户所属组织", "organisation of unknown OIDC people")
    outbound_allow: str = _entry(
        "", "允许外访的地址（网络、地址、主机名，逗号分隔），如本机",
        "addresses that people may make the house connect to although they are refused by default (networks, hosts)",
    )
    outbound_deny: str = _entry(
        "", "禁止外访的地址（网络、地址、主机名，逗号分隔）；优先",
        "addresses that the house never connects to on people's behalf (networks, hosts); wins over outbound_allow",
    )
    notification_hours: int = _entry(
        24, "无法送达的通知保留时长（小时）", "how long undelivered notifications are kept and tried again, in hours"
    )
    smtp_host: str = _entry("", "发信服务器；空为不发邮件", "mail server that alarms are sent through; empty: no e-mail is sent")
    smtp_port: int = _entry(587, "发信服务器端口", "port of the mail server")
    smtp_security: str = _entry("starttls", "发信加密：starttls、tls、none", "how mail is encrypted: starttls, tls, none")
    smtp_user: str = _entry("", "发信用户名", "user name at the mail server; empty: none is given")
    smtp_password: str = _entry("", "发信口令", "password at the mail server")
    smtp_from: str = _entry("tulou@localhost", "发件人地址", "address that mail comes from")
    sms_url: str = _entry("", "短信网关地址；空为不发短信", "address of the SMS gateway; empty: no short message is sent")
    sms_body: str = _entry(
        '{"to": "{to}", "text": "{text}"}', "短信请求体，{to} 与 {text} 按内容类型转义后代入",
        "body of the request to the SMS gateway; {to} and {text} are put in, escaped for its content type",
    )
    sms_content_type: str = _entry("application/json", "短信请求体的内容类型", "content type of that body")
    sms_authorization: str = _entry("", "短信请求的 Authorization 头", "Authorization header of the request to the SMS gateway")
    context_fetch: str = _entry(
        "", "可下载 @context 的来源（如 https://schema.lab.fiware.org），逗号分隔；空为从不下载",
        "origins from which @contexts may be downloaded, separated by commas; empty: none ever is",
    )
    edge_hub: str = _entry(
        "", "中心地址（https://…）；设置后本屋是其边缘节点", "address of the hub (https://..); set, this house is an edge of it"
    )
    edge_token: str = _entry("", "中心发给本边缘节点的令牌", "token that the hub gave this edge")
    edge_ca: str = _entry(
        "", "验证中心证书的 CA 文件（PEM）；空为系统信任的", "CA file (PEM) that the hub's certificate is verified by; empty: the system's"
    )
    packs: str = _entry("", "附加包目录", "folders of further packs, separated by ':'")
    pack_keys: str = _entry(
        "", "可信的包签名公钥（Ed25519，base64，逗号分隔）；设置后，他人签名的包不予安装",
        "Ed25519 public keys (base64, separated by commas) whose packs are trusted; set, packs that others signed are not installed",
    )
    pack_unsigned: bool = _entry(
        True, "可安装没有可信签名的包（列表中注明）", "packs without a trusted signature can be installed (the list says so)"
    )
    sources: Mapping[str, Source] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the file and the environment. Raises `Invalid` for an unknown key or a value of the wrong type."""
        environ = os.environ if environ is None else environ
        home = Path(environ.get("TULOU_HOME", "var"))
        path = Path(environ["TULOU_CONFIG"]) if "TULOU_CONFIG" in environ else home / "tulou.toml"
        values: dict[str, Any] = {}
        sources: dict[str, Source] = {}
        known = {f.name: f for f in fields(cls) if f.name != "sources"}
        if path.is_file():
            for key, value in tomllib.loads(path.read_text("utf-8")).items():
                if key not in known or key == "home":
                    raise Invalid(
                        f"{path} 中的设置项 {key} 不存在", f"unknown setting {key} in {path}", field=key, value=value
                    )
                values[key], sources[key] = _convert(known[key].type, key, value), "file"
        elif "TULOU_CONFIG" in environ:
            raise Invalid(f"设置文件 {path} 不存在", f"settings file {path} does not exist", field="TULOU_CONFIG")
        for key in known:
            raw = environ.get(f"TULOU_{key.upper()}")
            if raw is not None:
                values[key], sources[key] = _convert(known[key].type, key, raw), "env"
        values["home"] = home
        for key in known:
            sources.setdefault(key, "default")
        return cls(**values, sources=sources)

    def show(self) -> list[dict[str, Any]]:
        """Every entry with its value (secrets masked), source and meaning."""
        rows = []
        for f in fields(self):
            if f.name == "sources":
                continue
            value = getattr(self, f.name)
            shown = "******" if f.name in SECRET and value else str(value) if isinstance(value, Path) else value
            rows.append(
                {
                    "name": f.name,
                    "value": shown,
                    "source": self.sources.get(f.name, "default"),
                    "env": f"TULOU_{f.name.upper()}",
                    "zh": f.metadata["zh"],
                    "en": f.metadata["en"],
                }
            )
        return rows

    @property
    def fields(self) -> dict[str, tuple[int, int]]:
        """Field protocol -> its port and its TLS port; 0 is closed. Raises `Invalid`."""
        ports = {key: _ports(key, getattr(self, key)) for key in ("field_ports", "field_tls_ports")}
        plain, encrypted = ports.values()
        return {name: (plain.get(name, 0), encrypted.get(name, 0)) for name in {**plain, **encrypted}}

    @property
    def sip_realm(self) -> str:
        """The realm of GB/T 28181."""
        return self.gb28181_realm or self.gb28181_id[:10]

    @property
    def udp_fields(self) -> dict[str, int]:
        """Field protocol -> its UDP port. Raises `Invalid`."""
        return _ports("field_udp_ports", self.field_udp_ports)

    @property
    def listening(self) -> list[int]:
        """Every TCP port that is open for devices and people."""
        ports = [self.http_port, self.mqtt_port, self.mqtts_port, *(p for pair in self.fields.values() for p in pair),
                 self.gb28181_port, self.gb28181_tls_port, self.ocpp_port, self.ocpps_port]
        return [port for port in ports if port]

    @property
    def sql_url(self) -> str:
        """SQLAlchemy address of the relational store."""
        if not self.database_url:
            return f"sqlite:///{(self.home / 'tulou.db').absolute()}"
        url = self.database_url
        for prefix in ("postgresql://", "postgres://"):
            if url.startswith(prefix):
                return "postgresql+psycopg://" + url.removeprefix(prefix)
        return url

    @property
    def readings_dsn(self) -> str:
        """Address of the readings store: chDB in the home, or a ClickHouse server."""
        return self.clickhouse_url or f"chdb:///{(self.home / 'readings').absolute()}"


def _ports(key: str, text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, port = part.partition("=")
        if not port.strip().isdecimal() or int(port) > 65535 or name.strip() in found:
            raise Invalid(
                f"设置项 {key} 应为 协议=端口，以逗号分隔，现有 {part!r}",
                f"setting {key} is protocol=port, separated by commas, not {part!r}",
                field=key, value=part, rule="protocol=port",
            )
        found[name.strip()] = int(port)
    return found


def _convert(kind: Any, key: str, value: Any) -> Any:
    try:
        if kind == "int":
            return int(value)
        if kind == "Path":
            return Path(value)
    except (TypeError, ValueError):
        raise Invalid(
            f"设置项 {key} 应为整数，现为 {value!r}", f"setting {key} must be an integer, not {value!r}",
            field=key, value=value, rule="integer",
        ) from None
    if kind == "bool":
        if isinstance(value, bool) or value in ("true", "false"):
            return value is True or value == "true"
        raise Invalid(
            f"设置项 {key} 应为 true 或 false，现为 {value!r}", f"setting {key} must be true or false, not {value!r}",
            field=key, value=value, rule="true or false",
        )
    if not isinstance(value, str):
        raise Invalid(
            f"设置项 {key} 应为文本，现为 {value!r}", f"setting {key} must be text, not {value!r}",
            field=key, value=value, rule="text",
        )
    return value
