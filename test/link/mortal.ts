/** Loaded before polynic in a process under test: it dies with the test, even if that is killed. */
import { dieWithParent } from '../../src/linux/process.js';

dieWithParent(Number(process.env.POLYNIC_TEST));
