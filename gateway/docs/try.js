// Sends a request that the reader filled in and shows the answer, streams as they come.

/** The request as a URL and fetch options. */
function prepared({ operation, credential, parameters, body, isFile }) {
  let path = operation.path;
  const query = new URLSearchParams();
  for (const { name, in: place, schema, value } of parameters) {
    if (place === "path") path = path.replace(`{${name}}`, encodeURIComponent(value));
    else if (value !== "") {
      const values = schema.type === "array" ? value.split(",").map((each) => each.trim()) : [value];
      for (const each of values) query.append(name, each);
    }
  }
  const headers = {};
  if (credential) headers.authorization = `Bearer ${credential}`;
  if (isFile) {
    if (body && !query.has("filename")) query.set("filename", body.name);
    headers["content-type"] = body?.type || "application/octet-stream";
  } else if (body !== undefined) headers["content-type"] = "application/json";
  const url = path + (query.size ? `?${query}` : "");
  return { url, options: { method: operation.method, headers, body } };
}

/** The same request for a shell. */
export function curl(request) {
  const { url, options } = prepared(request);
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = [`curl -N -X ${options.method} ${quoted(location.origin + url)}`];
  for (const [name, value] of Object.entries(options.headers)) lines.push(`  -H ${quoted(`${name}: ${value}`)}`);
  if (request.isFile) lines.push(`  --data-binary ${quoted(`@${request.body?.name ?? "file"}`)}`);
  else if (options.body !== undefined) lines.push(`  -d ${quoted(options.body)}`);
  return lines.join(" \\\n");
}

/** Sends it; the answer goes into `output` as it comes. */
export async function perform(request, { output, send, stop, el }) {
  const stopping = new AbortController();
  const { url, options } = prepared(request);
  const status = el("div", { class: "status" }, "…");
  const shown = el("pre");
  output.replaceChildren(status, shown);
  send.disabled = true;
  stop.disabled = false;
  stop.onclick = () => stopping.abort();
  const started = performance.now();
  try {
    const response = await fetch(url, { ...options, signal: stopping.signal });
    status.classList.toggle("bad", !response.ok);
    status.textContent = `${response.status} · ${response.headers.get("x-request-id") ?? ""}`;
    if (response.headers.get("content-type")?.startsWith("text/event-stream")) await follow(response, shown);
    else if (response.headers.has("content-disposition")) shown.replaceChildren(await saved(response, el));
    else shown.textContent = pretty(await response.text());
    status.textContent += ` · ${Math.round(performance.now() - started)} ms`;
  } catch (error) {
    status.classList.add("bad");
    status.textContent += stopping.signal.aborted ? " stopped" : ` ${error.message}`;
  } finally {
    send.disabled = false;
    stop.disabled = true;
  }
}

/** A link that saves the file of the answer. */
async function saved(response, el) {
  const disposition = response.headers.get("content-disposition");
  const extended = disposition.match(/filename\*=UTF-8''([^;]+)/)?.[1];
  const name = extended ? decodeURIComponent(extended) : (disposition.match(/filename="([^"]*)"/)?.[1] ?? "file");
  const content = await response.blob();
  return el("a", { href: URL.createObjectURL(content), download: name }, `${name}, ${content.size} bytes`);
}

async function follow(response, shown) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    shown.append(value);
    shown.scrollTop = shown.scrollHeight;
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
