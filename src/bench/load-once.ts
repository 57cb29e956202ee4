/** Loads the programs of a device type once, as a guest's driver does, and prints what that took: `node load-once.js TYPE CONTEXT-SIZE STACK-BASE`. */
import { deviceType } from '../ring/registry.js';
import { loadAsDriver } from './programs.js';

/** Milliseconds of all programs together. */
export interface Loaded {
  readonly verifyMs: number;
  readonly compileMs: number;
}

const [name, contextSize, stackBase] = process.argv.slice(2) as [string, string, string];
const place = { contextSize: Number(contextSize), stackBase: Number(stackBase) };
const { reports } = await loadAsDriver(deviceType(name)!, place);
const sum = (of: keyof Loaded) => reports.reduce((total, report) => total + report[of], 0);
console.log(JSON.stringify({ verifyMs: sum('verifyMs'), compileMs: sum('compileMs') } satisfies Loaded));
