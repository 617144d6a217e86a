"""Meters that were not written here, each in a process of its own: `python -m tests.conformance.meters dlt645|modbus PORT`.

`dlt645` is the meter server of PyPI `dlt645`; `modbus` (Modbus TCP) and `modbus-rtu` (RTU over TCP) are the server of PyPI
`pymodbus` with its device simulator. They print a line when they listen.
"""

from __future__ import annotations

import asyncio
import sys
import time

ADDRESS = "000000123456"


def dlt645(port: int) -> None:
    """An electricity meter with energy, voltage, current, power, power factor and frequency."""
    from dlt645 import MeterServerService

    meter = MeterServerService.new_tcp_server("127.0.0.1", port, 60)
    meter.set_address(bytes.fromhex(ADDRESS)[::-1])  # it takes the bytes as they are on the wire
    meter.set_00(0x00010000, 123456.78)
    for item, value in {
        0x02010100: 220.5, 0x02020100: -12.345, 0x02030000: 1.2345, 0x02060000: -0.985, 0x02800002: 49.98,
    }.items():
        meter.set_02(item, value)
    meter.server.start()
    print("listening", flush=True)
    while True:
        time.sleep(60)


async def modbus(port: int, framing: str) -> None:
    """Devices 1 and 2 with registers and coils."""
    from pymodbus import FramerType
    from pymodbus.server import StartAsyncTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    def device(number: int) -> SimDevice:
        return SimDevice(id=number, simdata=(
            [SimData(3, values=True, datatype=DataType.BITS)], [SimData(4, values=False, datatype=DataType.BITS)],
            [SimData(0, values=1000 + number, datatype=DataType.UINT16), SimData(10, values=-7, datatype=DataType.INT16),
             SimData(20, values=70_000, datatype=DataType.UINT32), SimData(30, values=1.5, datatype=DataType.FLOAT32),
             SimData(40, values=-2.25, datatype=DataType.FLOAT64)],
            [SimData(100, values=555, datatype=DataType.UINT16)],
        ))

    server = asyncio.create_task(StartAsyncTcpServer(
        [device(1), device(2)], address=("127.0.0.1", port),
        framer=FramerType.RTU if framing == "modbus-rtu" else FramerType.SOCKET,
    ))
    await asyncio.sleep(0.5)
    print("listening", flush=True)
    await server


if __name__ == "__main__":
    what, where = sys.argv[1], int(sys.argv[2])
    if what == "dlt645":
        dlt645(where)
    else:
        asyncio.run(modbus(where, what))
