"""A server of OPC UA that was not written here, in its own process: `python -m tests.conformance.plant PORT HOME [secure]`.

It is the server of PyPI `asyncua`. Namespace 2 has `Plant/Tank` with `Level` (Double), `Count` (Int64, each value once),
`Name` (String), `Open` (Boolean), `Setpoint` (Float, writable), `Mode` (Int32), the method `Double`, and `Boiler/Heat`.
Lines on standard input change it: `level 1.5`, `count 100` (so many values of Count, one after another), `status Level
BadSensorFailure`, `stop`. It answers each with a line. `secure`: Basic256Sha256 alone, and the user `operator` with the
password `secret`; it prints the SHA-256 of its certificate first.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import socket
import sys
from pathlib import Path
from typing import Any

from asyncua import Server, ua, uamethod
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from cryptography.x509.oid import ExtendedKeyUsageOID


class People:
    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        return User(role=UserRole.User) if (username, password) == ("operator", "secret") else None


@uamethod
def double(_parent: Any, value: float) -> float:
    return value * 2


async def main() -> None:
    port, home, secure = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] == ["secure"]
    server = Server(user_manager=People()) if secure else Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/plant")
    if secure:
        key, certificate = home / "plant.pem", home / "plant.der"
        await setup_self_signed_certificate(
            key, certificate, "urn:plant", socket.gethostname(), [ExtendedKeyUsageOID.SERVER_AUTH], {}
        )
        await server.set_application_uri("urn:plant")
        server.set_security_policy(
            [ua.SecurityPolicyType.Basic256Sha256_Sign, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
        )
        server.set_identity_tokens([ua.UserNameIdentityToken])
        await server.load_certificate(str(certificate))
        await server.load_private_key(str(key))
    space = await server.register_namespace("urn:plant:things")
    plant = await server.nodes.objects.add_object(f"ns={space};s=Plant", f"{space}:Plant")
    tank = await plant.add_object(f"ns={space};s=Tank", f"{space}:Tank")
    boiler = await plant.add_object(f"ns={space};s=Boiler", f"{space}:Boiler")

    async def variable(where: Any, name: str, value: Any, kind: ua.VariantType) -> Any:
        return await where.add_variable(f"ns={space};s={name}", f"{space}:{name}", value, kind)

    nodes = {
        "Level": await variable(tank, "Level", 1.0, ua.VariantType.Double),
        "Count": await variable(tank, "Count", 0, ua.VariantType.Int64),
        "Name": await variable(tank, "Name", "一号罐", ua.VariantType.String),
        "Open": await variable(tank, "Open", True, ua.VariantType.Boolean),
        "Setpoint": await variable(tank, "Setpoint", 20.0, ua.VariantType.Float),
        "Mode": await variable(tank, "Mode", 3, ua.VariantType.Int32),
        "Heat": await variable(boiler, "Heat", 80.5, ua.VariantType.Float),
    }
    await nodes["Setpoint"].set_writable()
    await tank.add_method(
        f"ns={space};s=Double", f"{space}:Double", double, [ua.VariantType.Double], [ua.VariantType.Double]
    )
    count = 0

    async def put(name: str, value: Any, kind: ua.VariantType, status: int = 0) -> None:
        await nodes[name].write_value(ua.DataValue(
            ua.Variant(value, kind), StatusCode=ua.StatusCode(status), SourceTimestamp=dt.datetime.now(dt.UTC)))

    async with server:
        print(hashlib.sha256((home / "plant.der").read_bytes()).hexdigest() if secure else "listening", flush=True)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := (await lines.readline()).decode().split():
            match line:
                case ["level", value]:
                    await put("Level", float(value), ua.VariantType.Double)
                case ["status", name, status]:
                    await put(name, 0.0, ua.VariantType.Double, getattr(ua.StatusCodes, status))
                case ["count", many]:
                    for _ in range(int(many)):
                        count += 1
                        await put("Count", count, ua.VariantType.Int64)
                        await asyncio.sleep(0.002)
                case ["get", name]:
                    print(await nodes[name].read_value(), flush=True)
                    continue
                case ["stop"]:
                    return
            print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
