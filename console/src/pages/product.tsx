/** One product: made, changed or looked at. Its rules are the house's, asked while people write. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Alert, App, Button, Form, Skeleton, Space } from "antd";
import { useEffect, useRef, useState } from "react";
import { Link, useNavigate, useParams } from "react-router";
import { del, get, post, put, Problem, type ProblemBody } from "../api/client.ts";
import type { ProductDetail } from "../api/types.ts";
import { useOrgName } from "../components/org-select.tsx";
import { PageHead, RemoveButton, useRested } from "../components/page.tsx";
import { ProblemAlert, problemText, useSending, useShowProblem } from "../components/problem.tsx";
import { Commands, General, Properties } from "../components/product-form.tsx";
import { modelOf, placeOf, valuesOf, type Values } from "../components/product-values.ts";
import { useLabel } from "../format.ts";
import { useSession } from "../session.tsx";
import { useSettings } from "../settings.tsx";
import { productPath } from "./products.tsx";

const EMPTY = { label: { zh: "", en: "" }, open: false, offline_after_s: 600 };
const NEW = "-";

export default function ProductPage() {
  const name = useParams().name ?? NEW;
  const { user } = useSession();
  const known = useQuery({
    queryKey: ["product", name],
    queryFn: ({ signal }) => get<ProductDetail>(productPath(name), undefined, signal),
    enabled: name !== NEW,
    refetchOnWindowFocus: false,
  });
  if (known.error) return <div className="page"><ProblemAlert error={known.error} retry={() => void known.refetch()} /></div>;
  if (name === NEW) return <Editor key={NEW} product={null} start={valuesOf("", user.org, EMPTY)} />;
  if (!known.data) return <Skeleton active className="page" paragraph={{ rows: 10 }} />;
  const { org, version, model } = known.data;
  return <Editor key={`${name} ${version}`} product={known.data} start={valuesOf(name, org, model)} />;
}

function Editor({ product, start }: { product: ProductDetail | null; start: Values }) {
  const { language, text: words } = useSettings();
  const text = words.products;
  const label = useLabel();
  const orgName = useOrgName();
  const show = useShowProblem();
  const navigate = useNavigate();
  const client = useQueryClient();
  const { message } = App.useApp();
  const [form] = Form.useForm<Values>();
  const { error, busy, send } = useSending();
  const [written, setWritten] = useState("");
  const [wrong, setWrong] = useState<ProblemBody[]>([]);
  const marked = useRef<(string | number)[][]>([]);
  const rested = useRested(written, 400);
  const writable = product === null || product.writable;

  const all = (): Values => form.getFieldsValue(true) as Values;
  const draft = (values: Values) => ({ org: values.org ?? "", name: values.name ?? "", model: modelOf(values), version: product?.version });

  /** Show what is wrong at its field; while somebody writes, only where he has been. What has no field of its own is shown above. */
  const mark = (problems: ProblemBody[], everywhere: boolean): (string | number)[][] => {
    const values = all();
    const places = new Map<string, [(string | number)[], string[]]>();
    const homeless: ProblemBody[] = [];
    for (const problem of problems) {
      const place = placeOf(problem.field ?? "", values);
      const shown = form.getFieldInstance(place as never) !== undefined || place.at(-1) === "codes";
      if (!shown) homeless.push(problem);
      else if (everywhere || form.isFieldTouched(place as never)) {
        const key = JSON.stringify(place);
        const before = places.get(key)?.[1] ?? [];
        const said = problemText(new Problem(400, problem), language);
        places.set(key, [place, [...before, said.replace(`${problem.field} 不合规则：`, "").replace(`${problem.field}: `, "")]]);
      }
    }
    const found = [...places.values()];
    const gone = marked.current.filter((place) => !places.has(JSON.stringify(place)));
    form.setFields([
      ...gone.map((place) => ({ name: place as never, errors: [] })),
      ...found.map(([place, errors]) => ({ name: place as never, errors })),
    ]);
    marked.current = found.map(([place]) => place);
    setWrong(homeless);
    return marked.current;
  };

  useEffect(() => {
    if (!rested) return undefined;
    let left = false;
    post<{ errors: ProblemBody[] }>("/products/check", draft(all())).then(
      ({ errors }) => {
        if (!left) mark(errors, false);
      },
      () => undefined, // the answer to saving says it
    );
    return () => {
      left = true;
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [rested]);

  const save = async (): Promise<ProductDetail | null> => {
    const values = all();
    const { errors } = await post<{ errors: ProblemBody[] }>("/products/check", draft(values));
    if (errors.length > 0) {
      const places = mark(errors, true);
      if (places.length > 0) form.scrollToField(places[0] as never, { block: "center" });
      void message.error(text.problems(errors.length));
      return null;
    }
    mark([], true);
    const model = modelOf(values);
    if (product) return put<ProductDetail>(productPath(product.name), { model, version: product.version });
    return post<ProductDetail>("/products", { org: values.org, name: values.name, model });
  };

  const refresh = async (): Promise<void> => {
    await Promise.all([["/products"], ["models"]].map((queryKey) => client.invalidateQueries({ queryKey })));
  };
  const saved = async (answer: ProductDetail | null): Promise<void> => {
    if (!answer) return;
    client.setQueryData(["product", answer.name], answer);
    void message.success(text.saved);
    await refresh();
    void navigate(productPath(answer.name), { replace: true });
  };

  return (
    <div className="page" data-testid="product">
      <PageHead title={product ? label(product as never) || product.name : text.add} note={product && `${text.version} ${product.version}`}>
        <Space wrap>
          {product && <Link to={`/things?type=${encodeURIComponent(product.name)}`}>{text.devices}</Link>}
          {product?.writable && (
            <RemoveButton
              text={text.remove}
              name={product.name}
              warning={text.removeWarning}
              onRemove={() => del(productPath(product.name)).then(async () => {
                await navigate("/products");
                await refresh();
              }, show)}
            />
          )}
          <Button onClick={() => void navigate("/products")}>{words.actions.cancel}</Button>
          {writable && (
            <Button type="primary" loading={busy} onClick={() => void form.validateFields().then(() => send(save(), saved), () => undefined)}>
              {product ? words.actions.save : words.actions.create}
            </Button>
          )}
        </Space>
      </PageHead>
      {!writable && <Alert className="gap-below" type="info" showIcon title={text.general_of(orgName(product?.org))} />}
      {error !== null && <div className="gap-below"><ProblemAlert error={error} /></div>}
      {wrong.map((problem) => (
        <Alert
          key={problem.field ?? ""}
          className="gap-below"
          type="error"
          showIcon
          role="alert"
          title={problemText(new Problem(400, problem), language)}
        />
      ))}
      <Form<Values>
        form={form}
        layout="vertical"
        disabled={!writable}
        initialValues={start}
        onValuesChange={() => setWritten(JSON.stringify(all()))}
        autoComplete="off"
      >
        <h2 className="section-title">{text.general}</h2>
        <div className="panel product-item">
          <General fresh={product === null} />
        </div>
        <h2 className="section-title">{text.properties}</h2>
        <Properties form={form} />
        <h2 className="section-title">{text.commands}</h2>
        <Commands form={form} />
      </Form>
    </div>
  );
}
