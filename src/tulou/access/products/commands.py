"""`tulou product`.

Law: a command asks the house's own HTTP interface, so policy and audit see it like any other door.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from tulou.access.commands import paged
from tulou.kernel.settings import API

SHOWN = ("name", "org", "label_zh", "label_en", "version", "properties", "commands", "entities")


def _path(name: str) -> str:
    return f"{API}/products/{quote(name, safe='')}"


@click.group()
def product() -> None:
    """产品：设备类型的物模型。Products: models of device types."""


@product.command("list")
@click.option("--org", help="机构 / organisation")
@paged
@click.pass_obj
def list_products(session: Any, org: str | None, limit: int, after: str | None) -> None:
    """产品列表。Products."""
    session.output(session.call("GET", f"{API}/products", params={"org": org, "limit": limit, "after": after}), SHOWN)


@product.command("show")
@click.argument("name")
@click.option("--yaml", "as_file", is_flag=True, help="输出可供 set 的 YAML / the YAML that set takes")
@click.pass_obj
def show(session: Any, name: str, as_file: bool) -> None:
    """一个产品。One product."""
    found = session.call("GET", _path(name))
    if not as_file:
        session.output(found)
        return
    import yaml

    click.echo(yaml.safe_dump({name: _written(found["model"])}, allow_unicode=True, sort_keys=False), nl=False)


@product.command("set")
@click.argument("file", type=click.File("rb"))
@click.option("--org", help="新产品所属机构 / organisation of new products")
@click.pass_obj
def set_products(session: Any, file: Any, org: str | None) -> None:
    """按文件新建或更改产品；写法同包的 models。

    Make products or change them, from a file: names with models, as `models` of a pack has them.
    """
    import yaml

    try:
        models = yaml.safe_load(file.read())
    except yaml.YAMLError as error:
        raise click.ClickException(f"YAML: {error}") from None
    if not isinstance(models, dict) or not models:
        raise click.ClickException(session.text("文件应为 名称: 模型", "the file has names with models"))
    done = []
    for name, model in models.items():
        known = session.request("GET", _path(str(name)))
        if known.status_code == 404 and org is None:
            raise click.UsageError(session.text(f"{name} 是新产品，请用 --org 指定机构", f"{name} is new: say its organisation with --org"))
        if known.status_code == 404:
            done.append(session.call("POST", f"{API}/products", json={"org": org, "name": name, "model": model}))
        elif known.status_code >= 400:
            session.fail(known)
        else:
            body = {"model": model, "version": known.json()["version"]}
            done.append(session.call("PUT", _path(str(name)), json=body))
    session.output({"items": done}, SHOWN)


@product.command("delete")
@click.argument("name")
@click.pass_obj
def delete(session: Any, name: str) -> None:
    """删除产品；尚有此类型的实体时不可。Delete a product; not while there are entities of the type."""
    session.call("DELETE", _path(name))


def _written(value: Any) -> Any:
    """A model's JSON without what is empty, as people write it."""
    if isinstance(value, dict):
        return {key: left for key, one in value.items() if (left := _written(one)) not in (None, "", {}, [])}
    return value
