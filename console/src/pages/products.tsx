/** Products: the models of device types that organisations declare. */
import { PlusOutlined } from "@ant-design/icons";
import { useQueryClient } from "@tanstack/react-query";
import { Button, Space, Tag } from "antd";
import { Link, useNavigate } from "react-router";
import { del } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import type { Product } from "../api/types.ts";
import { useOrgName } from "../components/org-select.tsx";
import { Nothing, PagedTable, PageHead, RemoveButton } from "../components/page.tsx";
import { useShowProblem } from "../components/problem.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";

export const productPath = (name: string): string => `/products/${encodeURIComponent(name)}`;

export default function Products() {
  const text = useText().products;
  const format = useFormat();
  const label = useLabel();
  const can = useCan();
  const org = useOrgName();
  const show = useShowProblem();
  const navigate = useNavigate();
  const client = useQueryClient();
  const products = usePages<Product>("/products");
  const refresh = async (): Promise<void> => {
    await Promise.all([["/products"], ["models"]].map((queryKey) => client.invalidateQueries({ queryKey })));
  };
  return (
    <div className="page">
      <PageHead title={text.title}>
        {can("access.product.create") && (
          <Button type="primary" icon={<PlusOutlined />} onClick={() => void navigate("/products/-")}>
            {text.add}
          </Button>
        )}
      </PageHead>
      <p className="page-note muted">{text.help}</p>
      <PagedTable<Product>
        pages={products}
        testid="products"
        rowKey="name"
        scroll={{ x: 1080 }}
        empty={<Nothing title={text.none} hint={text.hint} />}
        columns={[
          {
            title: text.label,
            key: "label",
            width: 200,
            render: (_: unknown, product) => <Link to={productPath(product.name)}>{label(product as never)}</Link>,
          },
          { title: text.name, dataIndex: "name", width: 180, render: (name: string) => <span className="mono">{name}</span> },
          { title: text.org, dataIndex: "org", width: 130, render: (id: string) => org(id) },
          {
            title: text.kind,
            dataIndex: "open",
            width: 80,
            render: (open: boolean) => <Tag>{open ? text.open : text.closed}</Tag>,
          },
          { title: text.properties, dataIndex: "properties", width: 90, align: "right", render: format.integer },
          { title: text.commands, dataIndex: "commands", width: 100, align: "right", render: format.integer },
          {
            title: text.entities,
            dataIndex: "entities",
            width: 90,
            align: "right",
            render: (n: number, { name }) => (
              <Link to={`/things?type=${encodeURIComponent(name)}`} aria-label={`${text.devices} ${name} ${n}`}>
                {format.integer(n)}
              </Link>
            ),
          },
          {
            title: text.updated,
            dataIndex: "updated_at",
            width: 120,
            render: (at: string) => <span title={format.moment(at)}>{format.ago(at)}</span>,
          },
          {
            key: "actions",
            width: 150,
            align: "right",
            render: (_: unknown, { name, writable }) => (
              <Space>
                <Button size="small" onClick={() => void navigate(productPath(name))}>
                  {writable ? text.edit : text.view}
                </Button>
                {writable && (
                  <RemoveButton
                    text={text.remove}
                    name={name}
                    warning={text.removeWarning}
                    onRemove={() => del(productPath(name)).then(refresh, show)}
                  />
                )}
              </Space>
            ),
          },
        ]}
      />
    </div>
  );
}
