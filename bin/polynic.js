#!/usr/bin/env node
try {
  const { main } = await import('../dist/src/cli/main.js');
  await main(process.argv);
} catch (error) {
  if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
  console.error(`polynic: not installed or not built (npm ci does both): ${error.message}`);
  process.exitCode = 1;
}
