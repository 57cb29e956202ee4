/**
 * What `serve --config` and its processes say to one another, one JSON object a line.
 *
 * ```
 *   parent                                              member process
 *   {"id":1,"op":"open","words":["--name=vm0",…]} ──►   opens a NIC and serves it
 *   {"id":2,"op":"change","name":"vm0","wish":{…}} ──►  as `polynic upgrade`
 *   {"id":3,"op":"close","name":"vm0"}           ──►    in good order
 *                                                ◄──    {"id":1,"ok":{}} or {"id":1,"error":{"code":…,"message":…}}
 *                                                ◄──    {"failed":"vm0","message":…}   it is closed by then
 *   SIGTERM                                      ──►    closes all
 *                                                ◄──    {"left":{…}}                   what it holds even then
 * ```
 */
import type { Leaks } from '../../observe/child-report.js';
import type { UpgradeWish } from '../../observe/control/messages.js';

export type MemberRequest =
  | { readonly op: 'open'; readonly words: readonly string[] }
  | { readonly op: 'change'; readonly name: string; readonly wish: UpgradeWish }
  | { readonly op: 'close'; readonly name: string };

export type MemberReply =
  | { readonly id: number; readonly ok: object }
  | { readonly id: number; readonly error: { readonly code: string; readonly message: string } };

export type MemberMessage =
  | MemberReply
  | { readonly failed: string; readonly message: string }
  | { readonly left: Leaks };
