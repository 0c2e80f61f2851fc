// What alert rules mean, and what helps.

export const RULES = {
  offline: { text: "It is offline", todo: "Is it powered? Does its network reach the broker? `almena doctor` on the device tells more." },
  process: { text: "A part of it does not answer", todo: "It is started again by itself. If that does not help: `almena doctor` and the log on the device tell why." },
  frozen: { text: "A camera shows a frozen picture", todo: "Restart the camera, and look at its cable or its network." },
  covered: { text: "A camera is covered", todo: "Somebody should look at the lens." },
  stream: { text: "A stream has failed", todo: "Does the camera answer? Address and password are in the settings of the device." },
  hot: { text: "It is hot", todo: "Give it air or shade; it slows down before it stops.", unit: "°C" },
  throttled: { text: "It is throttled", todo: "It runs slower because of heat or a weak power supply." },
  slow: { text: "It is slow", todo: "It processes fewer frames than it should. Fewer streams or a smaller model help.", unit: "of the expected rate" },
  losses: { text: "It has lost events", todo: "Ranges and reasons are under Losses. More disk for the outbox, or a better network, keeps it from happening again." },
  missing: { text: "Rows are missing that nothing declares", todo: "Which ones is under Losses. Look at the log of the device, and at what stands between it and this hub: two hubs of one name, a broker that drops messages, an old copy of a disk." },
  outbox: { text: "Its outbox fills", todo: "It produces faster than it can send. Look at its network.", unit: "s" },
  disk: { text: "Its disk is nearly full", todo: "Free some space, or lower the limits of the outbox.", unit: "%" },
  clock: { text: "Its clock is wrong", todo: "Let it reach a time server. Events keep their order all the same." },
  certificate: { text: "Its certificate ends soon", todo: "It renews by itself; if it does not, join it again with `almena join`." },
};

// Alerts of the hub itself name this device.
export const HUB = { name: "hub", text: "This hub", todo: "Put a new certificate in its place; a hub that does not take it by itself is to be started again." };
