/** Capture files: a reader of pcapng and pcap, a writer of pcapng, and how frames get from and to a batch. */
export { CaptureFileError, createCapture, type FileIdentity } from './head.js';
export { INBOUND, OUTBOUND } from './layout.js';
export { PayloadReader } from './payload.js';
export { CaptureReader, END, FRAME, PAUSE } from './reader.js';
export { PcapWriter, UNDIRECTED } from './writer.js';
