// A proxy that puts the gateway below a path, as people do; whoever comes through it is not local.
import http from "node:http";

export async function below(path, target) {
  const server = http.createServer((request, response) => {
    if (!request.url.startsWith(`${path}/`)) { response.writeHead(404).end("elsewhere"); return; }
    const { host, ...headers } = request.headers;
    const to = http.request(target + request.url.slice(path.length), { method: request.method, headers: { ...headers, host: new URL(target).host, "x-forwarded-for": "192.0.2.1" } }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    to.on("error", () => response.writeHead(502).end());
    response.on("close", () => to.destroy());
    request.pipe(to);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return { url: `http://127.0.0.1:${server.address().port}${path}`, close: () => { server.closeAllConnections(); server.close(); } };
}
