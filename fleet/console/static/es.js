// Spanish. The key is the English text.

export const ES = {
  // frame
  "Skip to content": "Ir al contenido", "Fleet hub": "Central de la flota", "Log in": "Entrar", "Log out": "Salir", User: "Usuario", Password: "Contraseña", Language: "Idioma",
  Pages: "Páginas", Fleet: "Flota", Events: "Eventos", Faces: "Caras", Studies: "Estudios", Alerts: "Alertas", Accounts: "Cuentas", Audit: "Registro", Refused: "Rechazados",
  "Alerts, {n} not acknowledged": "Alertas, {n} sin atender", live: "en directo", "connecting again": "reconectando", "Changes show by themselves": "Los cambios aparecen solos",
  "What you see may be old": "Lo que ve puede estar anticuado", "Almena does not answer": "Almena no responde", "Load the page again.": "Vuelva a cargar la página.",
  "The hub stores nothing at the moment: {reason}. The devices keep what they send.": "La central no guarda nada en este momento: {reason}. Los dispositivos conservan lo que envían.",
  "The hub has no connection to the broker: nothing comes in. The devices keep what they send.": "La central no tiene conexión con el bróker: no entra nada. Los dispositivos conservan lo que envían.",
  viewer: "lectura", operator: "operación", admin: "administración", Cancel: "Cancelar", Close: "Cerrar", Save: "Guardar", Search: "Buscar", Details: "Detalles", all: "todos", never: "nunca",
  "{span} ago": "hace {span}", you: "usted", Name: "Nombre", Send: "Enviar", Sent: "Enviado", Change: "Cambiar", nothing: "nada",
  // pictures
  Pictures: "Imágenes", "Picture of {time}": "Imagen de {time}", "The device is asked …": "Se pregunta al dispositivo …", "Live picture of {stream}": "Imagen en directo de {stream}",
  "The live picture has ended.": "La imagen en directo ha terminado.", "The live picture has ended: {reason}.": "La imagen en directo ha terminado: {reason}.", "nobody looks any more": "ya no mira nadie",
  "a live picture ends after 300 s": "una imagen en directo termina tras 300 s", "the device has ended it": "el dispositivo la ha terminado", "the device sends no picture any more": "el dispositivo ya no envía imágenes",
  "the connection with the device has ended": "la conexión con el dispositivo ha terminado", "no new picture for {span}": "ninguna imagen nueva desde hace {span}", "Stop looking": "Dejar de mirar", "the device's page shows that somebody looks": "la página del dispositivo muestra que alguien mira",
  "There is no snapshot yet.": "Aún no hay ninguna captura.", "Snapshot of {stream}": "Captura de {stream}", "Take a snapshot": "Hacer una captura", Look: "Mirar", Snapshots: "Capturas",
  "This hub has no door by which devices could send pictures: see `door` in its settings.": "Esta central no tiene puerta por la que los dispositivos puedan enviar imágenes: vea `door` en sus ajustes.",
  "Pictures do not reach the hub: {reason}": "Las imágenes no llegan a la central: {reason}", "{waiting} pictures of events wait on the device; {lost} were lost since it started.": "{waiting} imágenes de eventos esperan en el dispositivo; {lost} se perdieron desde que arrancó.",
  "Your role may not look at pictures.": "Su papel no permite ver imágenes.", "the device did not answer in time": "el dispositivo no respondió a tiempo",
  "No picture leaves this device: its own settings (`hub`) do not allow it, and nobody can change that from here.": "Ninguna imagen sale de este dispositivo: sus propios ajustes (`hub`) no lo permiten, y nadie puede cambiarlo desde aquí.",
  // states
  online: "en línea", stale: "se retrasa", offline: "sin conexión", stopped: "parado", "never seen": "nunca visto", "It speaks to the hub": "Habla con la central",
  "It is late: its lease is over": "Se retrasa: su plazo ha vencido", "It does not speak any more": "Ya no habla", "It was stopped on purpose": "Se paró a propósito",
  "It has not spoken to the hub yet": "Aún no ha hablado con la central",
  // fleet
  Device: "Dispositivo", Devices: "Dispositivos", State: "Estado", "Last word": "Última palabra", Version: "Versión", Models: "Modelos", Temperature: "Temperatura", "Frames/s": "Imágenes/s",
  Outbox: "Bandeja de salida", Lost: "Perdidos", "Name, site, group, note, version, model": "Nombre, sede, grupo, nota, versión, modelo", "Models, engines": "Modelos, motores", Site: "Sede", Group: "Grupo", "Show more": "Mostrar más",
  "with alerts": "con alertas", "{n} of {total} devices are listed.": "Se muestran {n} de {total} dispositivos.", "{n} device is listed.": "Se muestra {n} dispositivo.",
  "{n} devices are listed.": "Se muestran {n} dispositivos.", "No device is like that. Take a filter away.": "Ningún dispositivo es así. Quite algún filtro.",
  "No device has spoken to this hub yet. `almena join` brings one.": "Ningún dispositivo ha hablado aún con esta central. `almena join` trae uno.",
  "Choose {device}": "Elegir {device}", "{n} device is chosen": "{n} dispositivo elegido", "{n} devices are chosen": "{n} dispositivos elegidos", "Site and group …": "Sede y grupo …", "Choose all that are listed": "Elegir todos los de la lista",
  "Choose none": "No elegir ninguno", "as it is": "como está", "Where they stand; left empty, it stays": "Dónde están; si se deja vacío, no cambia", "What they are used for; left empty, it stays": "Para qué se usan; si se deja vacío, no cambia",
  "Give a site or a group": "Indique una sede o un grupo", "{n} device is changed": "{n} dispositivo cambiado", "{n} devices are changed": "{n} dispositivos cambiados",
  "Try it out": "Pruébelo", "Switch {device} off": "Apagar {device}", "{device} is switched off for three minutes": "{device} queda apagado tres minutos",
  "These devices are simulated. Switch one off, and watch it in the list: after 15 seconds it is stale, after 30 offline, a minute or two later there is an alert, and after three minutes it is back, with nothing lost.":
    "Estos dispositivos son simulados. Apague uno y obsérvelo en la lista: a los 15 segundos se retrasa, a los 30 está sin conexión, uno o dos minutos después hay una alerta, y a los tres minutos vuelve, sin haber perdido nada.",
  // maintenance
  Maintenance: "Mantenimiento", "Maintenance …": "Mantenimiento …", "Begin maintenance …": "Empezar mantenimiento …", "maintenance until {time}": "en mantenimiento hasta {time}", "Nobody is told of its alerts": "No se avisa a nadie de sus alertas",
  "Alerts go on, and nobody is told of them before it is over.": "Las alertas siguen, y no se avisa a nadie hasta que acabe.", Where: "Dónde", Why: "Por qué", Begin: "Empezar", "End it": "Terminarlo", "It is over": "Ha terminado",
  "4 hours": "4 horas", "12 hours": "12 horas", "Nobody works on the fleet: people are told of every alert.": "Nadie trabaja en la flota: se avisa de todas las alertas.", "in maintenance: nobody is told": "en mantenimiento: no se avisa a nadie",
  // figures
  Processor: "Procesador", "Graphics processor": "Procesador gráfico", Memory: "Memoria", "Free disk": "Disco libre", "Oldest in the outbox": "Lo más antiguo en la bandeja",
  "Frames per second of {name}": "Imágenes por segundo de {name}", "Latency of {name}": "Latencia de {name}", "{text}: now {now}, from {low} to {high}": "{text}: ahora {now}, de {low} a {high}",
  "{low} to {high}": "de {low} a {high}", "Nothing was measured in this time.": "En este tiempo no se midió nada.",
  "15 minutes": "15 minutos", "1 hour": "1 hora", "6 hours": "6 horas", "1 day": "1 día", "7 days": "7 días", "30 days": "30 días", "Time shown": "Tiempo mostrado",
  // a device
  Now: "Ahora", Charts: "Gráficas", Losses: "Pérdidas", Commands: "Órdenes", Settings: "Ajustes", "Parts of this page": "Partes de esta página", "There is no such device.": "No existe tal dispositivo.",
  "Site {site}": "Sede {site}", "Group {group}": "Grupo {group}", "Almena {version}": "Almena {version}", "Site, group and note": "Sede, grupo y nota", Note: "Nota",
  "Where it stands": "Dónde está", "What it is used for": "Para qué se usa", "What the next person should know": "Lo que debe saber quien venga después",
  "Remove …": "Quitar …",
  "The hub forgets how it is, what it measured, was told and wanted; what it saw stays as long as all events do. If it speaks again, it comes back as a new device: to keep it away, take its certificate back with `almena fleet revoke`.":
    "La central olvida cómo está, lo que midió, y qué se le pidió y se deseó de él; lo que vio se queda tanto como todos los eventos. Si vuelve a hablar, aparece como un dispositivo nuevo: para impedirlo, retire su certificado con `almena fleet revoke`.",
  "It has never spoken to this hub.": "Nunca ha hablado con esta central.", "It speaks to the hub; last word": "Habla con la central; última palabra",
  "It should have spoken by now; last word": "Ya debería haber hablado; última palabra", "It was stopped on purpose; last word": "Se paró a propósito; última palabra",
  "It does not speak since {time}; last word": "No habla desde {time}; última palabra", Streams: "Flujos", Stream: "Flujo", Engines: "Motores", "as of": "de", "This device": "Este dispositivo",
  "Running since": "En marcha desde hace", Boot: "Arranque", "Last birth": "Última presentación", "Not measured": "Sin medir", "No telemetry of this device has come yet.": "Aún no ha llegado telemetría de este dispositivo.",
  "Its vision process does not answer: {reason}": "Su proceso de visión no responde: {reason}", "Captured/s": "Captadas/s", "Processed/s": "Procesadas/s", "Skipped/s": "Omitidas/s", Picture: "Imagen", Failed: "Fallidas",
  "Reconnects (1 h)": "Reconexiones (1 h)", "Last frame": "Última imagen", "No stream is set up.": "No hay ningún flujo configurado.", "This device has not reported its engines yet.": "Este dispositivo aún no ha informado de sus motores.",
  "No engine is loaded.": "No hay ningún motor cargado.", "Why this one": "Por qué este", Agreement: "Concordancia", "with FP32, on {n} pictures": "con FP32, en {n} imágenes", Latency: "Latencia",
  Runtime: "Entorno", Built: "Construido", Lane: "Carril", Waiting: "Esperan", Size: "Tamaño", Oldest: "Más antiguo", Produced: "Producidos", Settled: "Entregados", Alarm: "Alarma",
  running: "en marcha", connecting: "conectando", frozen: "congelado", covered: "tapado", failed: "fallido", finished: "terminado",
  // losses
  "Whatever an outbox had to drop is declared here. What is neither stored nor here is still on the device, and will come.":
    "Aquí se declara todo lo que una bandeja tuvo que descartar. Lo que no está guardado ni aparece aquí sigue en el dispositivo, y llegará.",
  "{n} event is lost for good.": "{n} evento se ha perdido para siempre.", "{n} events are lost for good.": "{n} eventos se han perdido para siempre.", Reason: "Motivo", Numbers: "Números", When: "Cuándo", Spool: "Serie",
  "This device has lost nothing.": "Este dispositivo no ha perdido nada.", "never numbered": "sin numerar", "Missing, not declared": "Faltan, sin declarar", Rows: "Filas",
  "Higher numbers are here, these are not, and nothing says that they are lost. Those that still wait in the outbox will come; an alert tells if others stay away.":
    "Han llegado números mayores, estos no, y nada dice que se hayan perdido. Los que aún esperan en la bandeja llegarán; una alerta avisa si faltan otros.", "and {n} more": "y {n} más",
  // commands
  "Ask how it is": "Preguntar cómo está", "It answers with the state of its uplink and streams.": "Responde con el estado de su enlace y sus flujos.", "Read its settings again": "Volver a leer sus ajustes",
  "Streams whose settings have changed start anew.": "Los flujos cuyos ajustes cambiaron empiezan de nuevo.", "Introduce itself again": "Presentarse de nuevo",
  "It sends its birth and its reported state once more.": "Envía otra vez su presentación y el estado que declara.", "waits for the broker": "espera al bróker", "waits for the device": "espera al dispositivo", done: "hecho",
  "expired: the device did not take it in time": "caducada: el dispositivo no la tomó a tiempo", Command: "Orden", By: "De", Reply: "Respuesta", "Nothing has been asked of this device yet.": "Aún no se ha pedido nada a este dispositivo.",
  "Another command …": "Otra orden …", "Another command": "Otra orden", "Sent before": "Enviadas antes", "Lower-case letters, digits, dots and dashes": "Minúsculas, cifras, puntos y guiones", Arguments: "Argumentos",
  "Restart a stream": "Reiniciar un flujo", "Its camera is opened anew and its models are loaded again. The other streams go on.": "Se abre de nuevo su cámara y se vuelven a cargar sus modelos. Los demás flujos siguen.", "Choose …": "Elegir …",
  "Tune its models": "Afinar sus modelos", "It measures again what runs them best, beside its streams, and takes that up by itself.": "Mide de nuevo con qué funcionan mejor, mientras sus flujos siguen, y lo adopta por sí mismo.", Model: "Modelo", "all in use": "todos los que usa",
  "Seconds for each": "Segundos para cada uno", "The longer, the more it can compare. The streams may be slower meanwhile.": "Cuanto más tiempo, más puede comparar. Entretanto los flujos pueden ir más lentos.",
  "It goes on; ask how it is to see what became of it.": "Sigue en marcha; pregunte cómo está para ver el resultado.",
  "A JSON object": "Un objeto JSON", "The arguments are no JSON: {error}": "Los argumentos no son JSON: {error}",
  // settings
  Desired: "Deseado", Reported: "Declarado", "Sections of the settings file that the hub may set: {names}. All else is decided on the device.": "Secciones del fichero de ajustes que la central puede fijar: {names}. Todo lo demás se decide en el dispositivo.", "Desired state as JSON": "Estado deseado en JSON", "Show what would change": "Mostrar qué cambiaría", "This is no JSON: {error}": "Esto no es JSON: {error}",
  "Send to {device}?": "¿Enviar a {device}?", "The device takes it over as soon as it is connected, and reports what became of it.": "El dispositivo lo asume en cuanto esté conectado, e informa de lo que resultó.",
  "Sent. What the device makes of it shows under Reported.": "Enviado. Lo que el dispositivo haga con ello aparece en Declarado.", "Revision {n}": "Revisión {n}", "by {name}": "de {name}",
  "Nothing is desired of this device yet.": "Aún no se desea nada de este dispositivo.", "Nothing would change.": "No cambiaría nada.", "What would change": "Qué cambiaría", "Send …": "Enviar …",
  "This device has not reported anything yet.": "Este dispositivo aún no ha declarado nada.", "Revision {n} holds": "Rige la revisión {n}", "Its own settings file holds alone": "Rige solo su propio fichero de ajustes", "is being tried": "se está probando", "as desired": "como se desea", "not yet as desired": "aún no como se desea",
  "The device refuses it, and goes on as before": "El dispositivo lo rechaza y sigue como antes", "The device says": "El dispositivo dice",
  // events
  "Download as CSV": "Descargar CSV", "Events, newest first": "Eventos, primero los más recientes", "Show older ones": "Mostrar anteriores", "Show {n} new event": "Mostrar {n} evento nuevo", "Show {n} new events": "Mostrar {n} eventos nuevos",
  Kind: "Clase", "Who or what": "Quién o qué", "Name, pseudonym, label": "Nombre, seudónimo, etiqueta", faces: "caras", classifications: "clasificaciones", studies: "estudios", streams: "flujos", "any time": "cuando sea", "last hour": "última hora",
  "last 24 hours": "últimas 24 horas", "last 7 days": "últimos 7 días", "from … to …": "desde … hasta …", From: "Desde", To: "Hasta", "Clear filters": "Quitar filtros", "No event has reached this hub yet.": "Aún no ha llegado ningún evento a esta central.",
  "Nothing like that has happened. Take a filter away, or look at another time.": "No ha pasado nada así. Quite algún filtro o mire otro momento.", "No event of this device has reached the hub yet.": "Aún no ha llegado ningún evento de este dispositivo.",
  "clock of the device not synchronised": "reloj del dispositivo sin sincronizar", "came {span} late": "llegó {span} tarde",
  // sentences
  "is connecting": "se está conectando", "is running": "está en marcha", "shows a frozen picture": "muestra una imagen congelada", "is covered": "está tapada", "has failed": "ha fallado", "is at its end": "ha llegado a su fin",
  "Somebody (erased)": "Alguien (borrado)", Unknown: "Desconocido", Somebody: "Alguien", "was recognised at {place}": "reconocido en {place}", "was not recognised at {place}": "no reconocido en {place}", "is still at {place}": "sigue en {place}",
  "arrived at {place}": "llegó a {place}", "left {place} after {span}": "se fue de {place} tras {span}", "left {place}": "se fue de {place}", "stream lost": "flujo perdido", interrupted: "interrumpido",
  "shows {label} (score {score})": "muestra {label} (valor {score})", "still shows {label} (score {score})": "sigue mostrando {label} (valor {score})", "no longer shows {label} (score {score})": "ya no muestra {label} (valor {score})",
  "has a photograph that shows {label} (score {score})": "tiene una fotografía que muestra {label} (valor {score})", "Radiograph {item}": "Radiografía {item}", "got no answer: {reason}": "quedó sin respuesta: {reason}",
  "the model answers {decision}, unverified ({positive} {score})": "el modelo responde {decision}, sin verificar ({positive} {score})",
  // faces, studies
  "Each entry is one visit, from its first to its last picture. Strangers have a pseudonym that only their device knows; pictures stay on the device unless its own settings send them.":
    "Cada entrada es una visita, de su primera a su última imagen. Los desconocidos tienen un seudónimo que solo conoce su dispositivo; las imágenes se quedan en él, salvo que sus propios ajustes las envíen.",
  "Visits, newest first": "Visitas, primero las más recientes", "Nobody like that was seen. Take a filter away, or look at another time.": "No se vio a nadie así. Quite algún filtro o mire otro momento.", "Nobody has been seen yet.": "Aún no se ha visto a nadie.",
  "{from}, for {span}": "{from}, durante {span}", "since {from}": "desde {from}", "distance {distance}, limit {threshold}": "distancia {distance}, límite {threshold}", "there now": "ahora ahí", "not decided": "sin decidir", "last word": "última palabra",
  "All visits of this person": "Todas las visitas de esta persona",
  "Unverified output of a machine, not for diagnosis without a physician’s review. Pictures and heat maps stay on the device; nothing here leads to the patient.":
    "Resultado de una máquina, sin verificar; no sirve para diagnosticar sin la revisión de un médico. Imágenes y mapas de calor se quedan en el dispositivo; nada aquí conduce al paciente.",
  "Studies, newest first": "Estudios, primero los más recientes", "No study is like that. Take a filter away, or look at another time.": "Ningún estudio es así. Quite algún filtro o mire otro momento.", "No study has been answered yet.": "Aún no se ha respondido a ningún estudio.",
  "it cannot be used": "no se puede usar", "no frontal chest radiograph, by its tags": "no es una radiografía frontal de tórax, según sus etiquetas", "no frontal chest radiograph, by its picture": "no es una radiografía frontal de tórax, según su imagen",
  "unlike what the model has learned from": "distinta de aquello con lo que aprendió el modelo", "the scores are too close to each other": "los valores están demasiado cerca entre sí", "no answer": "sin respuesta", "limit {threshold}": "límite {threshold}",
  "heat map on the device": "mapa de calor en el dispositivo",
  // alerts
  "No alert is like that. Take a filter away.": "Ninguna alerta es así. Quite algún filtro.", "This hub": "Esta central", "Put a new certificate in its place; a hub that does not take it by itself is to be started again.": "Ponga un certificado nuevo en su lugar; si la central no lo toma por sí misma, hay que reiniciarla.", "days left": "días restantes",
  Over: "Pasadas", Rules: "Reglas", "All is well: no alert is firing.": "Todo va bien: no hay ninguna alerta.", Acknowledge: "Atender", Acknowledged: "Atendida", "Acknowledged by {name}": "La atiende {name}", "Acknowledged by": "La atendió",
  Alert: "Alerta", "Alerts that are over": "Alertas pasadas", "Nothing has been wrong yet.": "Aún no ha habido ningún problema.", Rule: "Regla", On: "Activa", Threshold: "Umbral", After: "Tras", Tells: "Avisa", on: "activa", off: "inactiva", "at once": "en el acto",
  "There are no rules.": "No hay reglas.", "This rule is on": "Esta regla está activa", "Seconds it must last": "Segundos que debe durar", "Tell everybody that the settings of this hub name": "Avisar a todos los que nombran los ajustes de esta central",
  "By e-mail": "Por correo", "Webhooks, separated by commas": "Webhooks, separados por comas", everybody: "a todos", nobody: "a nadie", "by e-mail": "por correo", Limit: "Límite",
  "fires from": "salta desde", "fires below": "salta por debajo de", "over at": "acaba en", "seconds ahead": "segundos de adelanto", "seconds behind": "segundos de retraso",
  "It is offline": "Está sin conexión", "Is it powered? Does its network reach the broker? `almena doctor` on the device tells more.": "¿Tiene corriente? ¿Llega su red al bróker? `almena doctor` en el dispositivo dice más.",
  "A camera shows a frozen picture": "Una cámara muestra una imagen congelada", "Restart the camera, and look at its cable or its network.": "Reinicie la cámara y revise su cable o su red.", "A camera is covered": "Una cámara está tapada",
  "Somebody should look at the lens.": "Alguien debería mirar el objetivo.", "A stream has failed": "Un flujo ha fallado", "Does the camera answer? Address and password are in the settings of the device.": "¿Responde la cámara? Dirección y contraseña están en los ajustes del dispositivo.",
  "It is hot": "Está caliente", "Give it air or shade; it slows down before it stops.": "Dele aire o sombra; se ralentiza antes de pararse.", "It is throttled": "Está limitado", "It runs slower because of heat or a weak power supply.": "Va más lento por el calor o por una alimentación débil.",
  "It is slow": "Va lento", "It processes fewer frames than it should. Fewer streams or a smaller model help.": "Procesa menos imágenes de las que debería. Ayudan menos flujos o un modelo menor.", "It has lost events": "Ha perdido eventos",
  "Ranges and reasons are under Losses. More disk for the outbox, or a better network, keeps it from happening again.": "Rangos y motivos están en Pérdidas. Más disco para la bandeja, o una red mejor, evitan que se repita.", "Rows are missing that nothing declares": "Faltan filas que nada declara",
  "Which ones is under Losses. Look at the log of the device, and at what stands between it and this hub: two hubs of one name, a broker that drops messages, an old copy of a disk.":
    "Cuáles son está en Pérdidas. Mire el registro del dispositivo y lo que hay entre él y esta central: dos centrales con un mismo nombre, un bróker que descarta mensajes, una copia antigua de un disco.",
  "Its outbox fills": "Su bandeja se llena",
  "It produces faster than it can send. Look at its network.": "Produce más de lo que puede enviar. Mire su red.", "Its disk is nearly full": "Su disco está casi lleno", "Free some space, or lower the limits of the outbox.": "Libere espacio o baje los límites de la bandeja.",
  "Its clock is wrong": "Su reloj va mal", "Let it reach a time server. Events keep their order all the same.": "Déjele llegar a un servidor de tiempo. Los eventos conservan su orden de todos modos.", "Its certificate ends soon": "Su certificado vence pronto",
  "It renews by itself; if it does not, join it again with `almena join`.": "Se renueva solo; si no, vuelva a unirlo con `almena join`.",
  // refused messages, one's own password
  "Refused messages": "Mensajes rechazados", "Last came": "Llegó por última vez", Times: "Veces", Topic: "Tema", Message: "Mensaje", erased: "borrado", "Every message could be stored.": "Se han podido guardar todos los mensajes.",
  "What could not be stored, each once. A device is told which of its rows were refused, and keeps them out of the way; the newest 64 MiB are kept here.":
    "Lo que no se pudo guardar, cada cosa una vez. Al dispositivo se le dice qué filas suyas se rechazaron, y las aparta; aquí se guardan los 64 MiB más recientes.",
  "Change your password": "Cambiar su contraseña", "Old password": "Contraseña anterior", "New password": "Contraseña nueva", "The old password is wrong": "La contraseña anterior no es correcta",
  "Your password is changed; your other sessions have ended": "Su contraseña ha cambiado; sus otras sesiones han terminado",
  // identities
  Identities: "Identidades", "Sites that share": "Sedes que comparten", Shares: "Comparte", "Devices that take part": "Dispositivos que participan", "being erased": "borrándose", shared: "compartidas", there: "presente",
  "Who was enrolled on one device is known on the others of its site. Pictures and templates travel sealed for each device: this hub keeps boxes that it cannot open.":
    "A quien se registró en un dispositivo lo conocen los demás de su sede. Imágenes y plantillas viajan selladas para cada dispositivo: esta central guarda cajas que no puede abrir.",
  "waits for the device that enrolled the person": "espera al dispositivo que registró a la persona", "waits for this device": "espera a este dispositivo", "not erased yet": "aún sin borrar",
  "This hub has no door for devices, and so nothing is shared: add the section `door` to its settings.": "Esta central no tiene puerta para dispositivos, así que no se comparte nada: añada la sección `door` a sus ajustes.",
  "none: set `hub.identities: true` on the devices": "ninguno: ponga `hub.identities: true` en los dispositivos", "Share no longer …": "Dejar de compartir …", "Share no longer": "Dejar de compartir", "Share no longer at {site}?": "¿Dejar de compartir en {site}?", Share: "Compartir",
  "Each device erases whom it got from others. Who was enrolled on it stays there.": "Cada dispositivo borra a quienes recibió de otros. Quien se registró en él se queda allí.",
  "The devices of {site} share identities from now on": "Los dispositivos de {site} comparten identidades desde ahora", "No device has a site yet: give it one on its page.": "Ningún dispositivo tiene sede aún: désela en su página.",
  Consent: "Consentimiento", "Enrolled on": "Registrada en", "Known on": "Conocida en", "Nobody is shared. Whoever is enrolled on a device of a site that shares shows here.": "No se comparte a nadie. Quien se registre en un dispositivo de una sede que comparte aparece aquí.",
  "{n} device has not erased it yet": "{n} dispositivo aún no la ha borrado", "{n} devices have not erased it yet": "{n} dispositivos aún no la han borrado", "Erased on every device": "Borrada en todos los dispositivos",
  "Receipt: {pictures} pictures, {templates} templates": "Recibo: {pictures} imágenes, {templates} plantillas", "Erasure ordered": "Borrado ordenado", "Ask again": "Pedirlo otra vez", "The devices are told again": "Se vuelve a avisar a los dispositivos", "Erase …": "Borrar …", Erase: "Borrar", "Erase {name} everywhere?": "¿Borrar a {name} en todas partes?",
  "Pictures, templates and the name go, on every device and in what this hub has stored. Each device answers with a receipt; one that is away does so when it is back. This cannot be undone.":
    "Se van imágenes, plantillas y el nombre, en cada dispositivo y en lo que esta central ha guardado. Cada dispositivo responde con un recibo; el que está ausente lo hace cuando vuelve. No se puede deshacer.",
  // accounts, audit
  "Add a person": "Añadir una persona", "API keys": "Claves de API", "Make a key": "Crear una clave", "For programs: they send it as `Authorization: Bearer …`. A key is shown once.": "Para programas: la envían como `Authorization: Bearer …`. Una clave se muestra una sola vez.",
  Role: "Papel", "viewer: sees everything": "lectura: lo ve todo", "operator: commands, settings, acknowledges": "operación: órdenes, ajustes, atiende alertas", "admin: accounts, rules, erasure, too": "administración: además cuentas, reglas y borrado", Since: "Desde",
  Remove: "Quitar", "Remove {name}?": "¿Quitar a {name}?", "Their sessions end at once.": "Sus sesiones acaban en el acto.", People: "Personas", "There is nobody.": "No hay nadie.", Made: "Creada", Ends: "Vence", "Last used": "Último uso", "no end": "sin fin",
  Revoke: "Revocar", "Revoke {name}?": "¿Revocar {name}?", "Programs that use it are refused at once.": "Los programas que la usan se rechazan en el acto.", "There are no keys.": "No hay claves.", "At least ten characters": "Al menos diez caracteres",
  "What it is for": "Para qué es", "It lasts": "Dura", "90 days": "90 días", "a year": "un año", "Make it": "Crearla", "Copy it now: it is not shown again.": "Cópiela ahora: no se muestra otra vez.",
  "Every change that somebody made through this hub, and every login.": "Cada cambio que alguien hizo por esta central, y cada entrada.", Who: "Quién", Did: "Hizo", Outcome: "Resultado", "Nothing has been changed yet.": "Aún no se ha cambiado nada.", refused: "rechazado",
  // what the hub answers
  "Wrong user or password": "Usuario o contraseña incorrectos", "Too many wrong passwords": "Demasiadas contraseñas incorrectas", "The request is not valid": "La petición no es válida", "The request cannot be carried out": "La petición no se puede llevar a cabo",
  "Not for this role": "Su papel no lo permite", "These settings are not valid": "Estos ajustes no son válidos", "Changed meanwhile": "Alguien lo cambió entretanto", "Not here": "No está aquí",
};
