// The gateway listens on all interfaces and has no option for it; a benchmark is nobody's business but this machine's.
import net from "node:net";

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (first, ...rest) {
  const asked = typeof first === "object" && first !== null ? first : { port: first };
  const told = rest.filter((one) => typeof one === "function");
  return listen.call(this, { ...asked, host: "127.0.0.1" }, ...told);
};
