/** Loads the programs of a device type once, as a guest's driver does, and prints what that took: `node load-once.js TYPE CONTEXT-SIZE DESCRIPTORS STACK-BASE`. */
import { deviceType } from '../ring/registry.js';
import { loadAsDriver } from './programs.js';

/** Milliseconds of all programs together. */
export interface Loaded {
  readonly verifyMs: number;
  readonly compileMs: number;
}

const [name, ...numbers] = process.argv.slice(2) as [string, ...string[]];
const [contextSize, num, stackBase] = numbers.map(Number) as [number, number, number];
const { reports } = await loadAsDriver(deviceType(name)!, { contextSize, num, stackBase });
const sum = (of: keyof Loaded) => reports.reduce((total, report) => total + report[of], 0);
console.log(JSON.stringify({ verifyMs: sum('verifyMs'), compileMs: sum('compileMs') } satisfies Loaded));
