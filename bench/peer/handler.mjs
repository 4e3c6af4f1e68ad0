// The same function of N steps as ../handler.rs, on Restate's SDK: each step is recorded before the
// next begins.

// The SDK needs it, and Node has it from version 22 on.
Promise.withResolvers ??= function withResolvers() {
  let resolve, reject;
  const promise = new Promise((yes, no) => { [resolve, reject] = [yes, no]; });
  return { promise, resolve, reject };
};
const restate = await import("@restatedev/restate-sdk");

const steps = restate.service({
  name: "bench",
  handlers: {
    steps: async (ctx, n) => {
      for (let i = 1; i <= n; i += 1) await ctx.run(`step-${i}`, () => i);
      return n;
    },
  },
});

restate.serve({ services: [steps], port: Number(process.argv[2] ?? 9080) });
