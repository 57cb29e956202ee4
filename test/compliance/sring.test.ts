import { RINGS } from './rings.js';
import { ringCompliance } from './suite.js';

ringCompliance(RINGS.sring);
