/**
 * The frame by which a network learns where a guest is now: a reverse ARP request, to everybody, from the guest's address.
 *
 * ```
 *   0            6        12     14                20       22         28   32         38   42      60
 *   ff:ff:…:ff   mac      8035   0001 0800 06 04   0003     mac        0    mac        0    zeros
 *   to           from     RARP   Ethernet, IPv4    request  sender     …    target     …
 * ```
 */
export const RARP_SIZE = 60;

/** `mac`: 6 octets. */
export function rarpFrame(mac: Uint8Array): Uint8Array {
  const frame = new Uint8Array(RARP_SIZE);
  frame.fill(0xff, 0, 6);
  frame.set(mac, 6);
  frame.set([0x80, 0x35, 0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x03], 12);
  frame.set(mac, 22);
  frame.set(mac, 32);
  return frame;
}
