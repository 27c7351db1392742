// Run once, on an empty volume: Keyway's own user, which may do everything in its database and nothing else.
db.getSiblingDB("keyway").createUser({
  user: "keyway",
  pwd: require("fs").readFileSync(process.env.MONGO_KEYWAY_PASSWORD_FILE, "utf8").trim(),
  roles: ["readWrite", "dbAdmin"],
});
