/**
 * Loads the programs of a device type once, as a guest's driver does that has just started, and prints what that took:
 * `node load-once.js TYPE CONTEXT-SIZE DESCRIPTORS STACK-BASE`.
 */
import { warmUp } from '../guest/bpfhv/warm-up.js';
import { deviceType } from '../ring/registry.js';
import { loadAsDriver } from './programs.js';

/** Milliseconds of all programs together, and of what the driver did before there was a device. */
export interface Loaded {
  readonly warmUpMs: number;
  readonly verifyMs: number;
  readonly compileMs: number;
}

const [name, ...numbers] = process.argv.slice(2) as [string, ...string[]];
const [contextSize, num, stackBase] = numbers.map(Number) as [number, number, number];
const start = performance.now();
warmUp();
const warmUpMs = performance.now() - start;
const { reports } = await loadAsDriver(deviceType(name)!, { contextSize, num, stackBase });
const sum = (of: 'verifyMs' | 'compileMs') => reports.reduce((total, report) => total + report[of], 0);
const loaded: Loaded = { warmUpMs, verifyMs: sum('verifyMs'), compileMs: sum('compileMs') };
console.log(JSON.stringify(loaded));
